package hostport

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/internal/nft"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct{ name, data, want, err string }{
		{"nothing", "", "[]", ""},
		{"null", "null", "[]", ""},
		{"none", "[]", "[]", ""},
		{"one", `[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]`, "[8080:80/tcp]", ""},
		{"all kinds", `[{"hostPort":1,"containerPort":65535,"protocol":"UDP","hostIP":"192.0.2.1"},
			{"hostPort":65535,"containerPort":1,"protocol":"sctp","hostIP":"2001:DB8::1"}]`,
			"[192.0.2.1:1:65535/udp [2001:db8::1]:65535:1/sctp]", ""},
		{"no protocol", `[{"hostPort":8080,"containerPort":80}]`, "[8080:80/tcp]", ""},
		{"only declared", `[{"containerPort":80,"protocol":"tcp"},{"hostPort":0,"containerPort":0,"protocol":"bad"}]`, "[]", ""},
		{"IPv4 in IPv6", `[{"hostPort":8080,"containerPort":80,"hostIP":"::ffff:192.0.2.1"}]`, "[192.0.2.1:8080:80/tcp]", ""},
		{"all of IPv4", `[{"hostPort":8080,"containerPort":80,"hostIP":"0.0.0.0"}]`, "[0.0.0.0:8080:80/tcp]", ""},
		{"keys of others", `[{"hostPort":8080,"containerPort":80,"name":"web"}]`, "[8080:80/tcp]", ""},
		{"same twice", `[{"hostPort":53,"containerPort":53},{"hostPort":53,"containerPort":53}]`, "[53:53/tcp 53:53/tcp]", ""},
		{"same port, other protocol", `[{"hostPort":53,"containerPort":53},{"hostPort":53,"containerPort":54,"protocol":"udp"}]`, "[53:53/tcp 53:54/udp]", ""},
		{"same port, other family", `[{"hostPort":53,"containerPort":53,"hostIP":"0.0.0.0"},{"hostPort":53,"containerPort":54,"hostIP":"::"}]`, "[0.0.0.0:53:53/tcp [::]:53:54/tcp]", ""},

		{"port too high", `[{},{"hostPort":65536,"containerPort":80}]`, "", "runtimeConfig.portMappings[1]: hostPort 65536 is no port: use 1 to 65535"},
		{"negative port", `[{"hostPort":-1,"containerPort":80}]`, "", "runtimeConfig.portMappings[0]: hostPort -1 is no port: use 1 to 65535"},
		{"no container port", `[{"hostPort":8080}]`, "", "runtimeConfig.portMappings[0]: containerPort 0 is no port: use 1 to 65535"},
		{"protocol", `[{"hostPort":8080,"containerPort":80,"protocol":"icmp"}]`, "", `runtimeConfig.portMappings[0]: protocol "icmp" of host port 8080 can't be mapped: use tcp, udp or sctp`},
		{"host address", `[{"hostPort":8080,"containerPort":80,"hostIP":"eth0"}]`, "", `runtimeConfig.portMappings[0]: hostIP "eth0" of host port 8080 is not an IP address such as 192.0.2.1 or 2001:db8::1: leave it out for all addresses of the host`},
		{"zone", `[{"hostPort":8080,"containerPort":80,"hostIP":"fe80::1%eth0"}]`, "", `runtimeConfig.portMappings[0]: hostIP "fe80::1%eth0" of host port 8080 is not an IP address such as 192.0.2.1 or 2001:db8::1: leave it out for all addresses of the host`},
		{"multicast", `[{"hostPort":8080,"containerPort":80,"hostIP":"224.0.0.1"}]`, "", "runtimeConfig.portMappings[0]: hostIP 224.0.0.1 of host port 8080 can't be an address of a host: use one of its own"},
		{"localhost of IPv6", `[{"hostPort":8080,"containerPort":80,"hostIP":"::1"}]`, "[[::1]:8080:80/tcp]", ""},
		{"two targets", `[{"hostPort":80,"containerPort":80},{"hostPort":80,"containerPort":81}]`, "", "runtimeConfig.portMappings: host port 80/tcp leads to container port 80 and to 81: remove one"},
		{"two targets, one family", `[{"hostPort":80,"containerPort":80,"hostIP":"::"},{"hostPort":80,"containerPort":81}]`, "", "runtimeConfig.portMappings: host port 80/tcp leads to container port 80 and to 81: remove one"},
		{"text for a number", `[{"hostPort":"8080"}]`, "", `runtimeConfig.portMappings: hostPort holds a string: write [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "192.0.2.1"}]`},
		{"no list", `{}`, "", `runtimeConfig.portMappings holds an object: write [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "192.0.2.1"}]`},
		{"a list for a text", `[{"hostPort":8080,"containerPort":80,"protocol":["tcp"]}]`, "", `runtimeConfig.portMappings: protocol holds a list: write [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "192.0.2.1"}]`},
		{"no JSON", `[`, "", "runtimeConfig.portMappings can't be read: unexpected end of JSON input"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Parse([]byte(tc.data))
			if err != nil || tc.err != "" {
				if err == nil || err.Error() != tc.err {
					t.Errorf("error %v\nwant  %s", err, tc.err)
				}
				return
			}
			if fmt.Sprint(got) != tc.want {
				t.Errorf("got %v, want %s", got, tc.want)
			}
		})
	}
}

// FuzzParse gives the parser anything. What it accepts can be written and read
// again, and makes elements that the table has room for.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`[{"hostPort":8080,"containerPort":80,"protocol":"tcp","hostIP":"192.0.2.1"}]`))
	f.Add([]byte(`[{"hostPort":53,"containerPort":53,"protocol":"UDP","hostIP":"::"},{"containerPort":1}]`))
	f.Add([]byte(`[{"hostPort":65536}]`))
	f.Add([]byte(`{`))
	pods := []netip.Addr{netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("fd00::2")}
	f.Fuzz(func(t *testing.T, data []byte) {
		mappings, err := Parse(data)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "runtimeConfig.portMappings") {
				t.Errorf("the error doesn't say what it is about: %v", err)
			}
			return
		}
		text, err := json.Marshal(mappings)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(text)
		if err != nil || !slices.Equal(again, mappings) {
			t.Errorf("%s: read again as %v, %v", text, again, err)
		}
		checkElements(t, Elements(mappings, pods))
	})
}

// checkElements checks that elements survive their way to the kernel's form and
// back, have keys and data of their set's size, and don't exclude each other.
func checkElements(t *testing.T, elements []Element) {
	t.Helper()
	taken := map[place]nft.Element{}
	for _, e := range elements {
		en := e.encode()
		for _, s := range sets() {
			if s.Name == en.Set && (len(en.Key) != int(s.Key.Size) || len(en.Data) != int(s.Data.Size)) {
				t.Errorf("%v: key of %d and data of %d bytes, want %d and %d", e, len(en.Key), len(en.Data), s.Key.Size, s.Data.Size)
			}
		}
		if back, ok := decode(en); !ok || back != e || owner(en) != e.Pod {
			t.Errorf("%v came back as %v of %v", e, back, owner(en))
		}
		if other, there := taken[placeOf(en)]; there && other != en {
			t.Errorf("%v excludes another one of the same pod", e)
		}
		taken[placeOf(en)] = en
	}
}

// A record keeps mappings as JSON.
func TestMappingsAreKept(t *testing.T) {
	want := `[{"hostPort":8080,"containerPort":80,"protocol":"tcp"},{"hostPort":53,"containerPort":53,"protocol":"udp","hostIP":"192.0.2.1"}]`
	mappings, err := Parse([]byte(want))
	must(t, err)
	got, err := json.Marshal(mappings)
	must(t, err)
	if string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestElements(t *testing.T) {
	a := netip.MustParseAddr
	dual := []netip.Addr{a("10.244.1.2"), a("fd00::2")}
	for _, tc := range []struct {
		name   string
		hostIP string
		pods   []netip.Addr
		want   string
	}{
		{"all addresses", "", dual, "ports4 ports6"},
		{"all of IPv4", "0.0.0.0", dual, "ports4"},
		{"all of IPv6", "::", dual, "ports6"},
		{"one of IPv4", "192.0.2.1", dual, "bound4"},
		{"one of IPv6", "2001:db8::1", dual, "bound6"},
		{"a family that the pod lacks", "2001:db8::1", dual[:1], ""},
		{"IPv6 pod", "", dual[1:], "ports6"},
		{"no pod", "", nil, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := Mapping{HostPort: 8080, ContainerPort: 80, Protocol: SCTP}
			if tc.hostIP != "" {
				m.HostIP = a(tc.hostIP)
			}
			elements := Elements([]Mapping{m}, tc.pods)
			var got []string
			for _, e := range elements {
				got = append(got, e.encode().Set)
			}
			if strings.Join(got, " ") != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			checkElements(t, elements)
		})
	}
}

// A pod without mappings for its families has no part in the table.
func TestElementsOfPods(t *testing.T) {
	a := netip.MustParseAddr
	for _, tc := range []struct {
		name     string
		mappings string
		want     string
	}{
		{"none", "", ""},
		{"all addresses", `[{"hostPort":80,"containerPort":8080}]`,
			"set bridges: cni0, set hairpin4: 10.244.1.2 . 10.244.1.2, set hairpin6: fd00::2 . fd00::2, map ports4: tcp . 80 : 10.244.1.2 . 8080, map ports6: tcp . 80 : fd00::2 . 8080"},
		{"two ports", `[{"hostPort":80,"containerPort":8080,"hostIP":"0.0.0.0"},{"hostPort":81,"containerPort":8081,"hostIP":"127.0.0.1"}]`,
			"set bridges: cni0, set hairpin4: 10.244.1.2 . 10.244.1.2, map ports4: tcp . 80 : 10.244.1.2 . 8080, map bound4: tcp . 127.0.0.1 . 81 : 10.244.1.2 . 8081"},
		{"not on localhost", `[{"hostPort":80,"containerPort":8080,"hostIP":"192.0.2.1"}]`,
			"set hairpin4: 10.244.1.2 . 10.244.1.2, map bound4: tcp . 192.0.2.1 . 80 : 10.244.1.2 . 8080"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			mappings, err := Parse([]byte(tc.mappings))
			must(t, err)
			var got []string
			for _, e := range (Pod{Bridge: "cni0", Addresses: []netip.Addr{a("10.244.1.2"), a("fd00::2")}, Mappings: mappings}).elements() {
				got = append(got, text(e))
			}
			if strings.Join(got, ", ") != tc.want {
				t.Errorf("got  %s\nwant %s", strings.Join(got, ", "), tc.want)
			}
		})
	}
}
