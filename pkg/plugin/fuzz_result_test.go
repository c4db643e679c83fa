package plugin

import (
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/google/go-cmp/cmp"

	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/veth"
)

// someNetwork and somePort are what an ADD has made when it comes to its result.
func someNetwork() settings {
	return settings{bridge: bridge.Spec{Name: "cni0", MTU: 1450, Gateways: []netip.Prefix{netip.MustParsePrefix("10.244.1.1/24")}}}
}

func somePort() veth.Port {
	gateway := netip.MustParseAddr("10.244.1.1")
	return veth.Port{
		HostName: "veth0", IfName: "eth0", MTU: 1450,
		HostMAC: []byte{2, 0, 0, 0, 0, 1}, MAC: []byte{2, 0, 0, 0, 0, 2},
		Addresses: []veth.Address{{Addr: netip.MustParseAddr("10.244.1.2"), Gateway: gateway}},
		Routes:    []veth.Route{{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: gateway}},
	}
}

// FuzzPrevResult gives anything for the result of the plugins before this one.
// ADD may refuse such a result with a CNI error. Otherwise ADD passes the result
// on, followed by its own, in a form that the specification's library reads.
func FuzzPrevResult(f *testing.F) {
	for _, seed := range []string{
		`{"interfaces":[{"name":"lo","mac":"00:00:00:00:00:00","sandbox":"/run/netns/x"}],"ips":[{"version":"4","address":"127.0.0.1/8","interface":0}]}`,
		`{"interfaces":[{"name":"eth0","mac":"02:00:00:00:00:09","mtu":9000,"sandbox":"/n"}],"ips":[{"version":"6","address":"fd00::2/64","gateway":"fd00::1"}],` +
			`"routes":[{"dst":"::/0","gw":"fd00::1"},{"dst":"10.0.0.0/8"}],"dns":{"nameservers":["10.96.0.10"],"domain":"x","search":["y"],"options":["ndots:5"]}}`,
		`{"interfaces":[{"name":"e","socketPath":"/s","pciID":"0"}],"routes":[{"dst":"0.0.0.0/0","mtu":1400,"advmss":1360,"priority":1,"table":5,"scope":253}]}`,
		`{"ips":[{"version":"4","address":"10.0.0.1/8","interface":-7}]}`,
		`{}`,
		// These are JSON, but no result.
		`{"interfaces":[null]}`, `{"ips":[null]}`, `{"routes":[null]}`, `{"ips":[{}]}`, `{"routes":[{}]}`,
		`null`, `[]`, `{"interfaces":{}}`,
	} {
		for _, version := range versions {
			f.Add(version, withVersion(version, seed))
		}
	}
	f.Fuzz(func(t *testing.T, version string, data []byte) {
		if !slices.Contains(versions, version) || !json.Valid(data) {
			return // refused before
		}
		c := conf{CNIVersion: version, PrevResult: data, DNS: json.RawMessage(`{"nameservers":["10.96.0.53"]}`)}
		result, err := c.result(someNetwork(), somePort(), "/run/netns/x")
		if err != nil {
			wantCNI(t, err)
			return
		}
		before, err := c.prevResult()
		if err != nil {
			t.Fatal(err)
		}
		if before.DNS.IsEmpty() {
			before.DNS.Nameservers = []string{"10.96.0.53"}
		}
		wantFollowed(t, before, parsed(t, version, printed(t, result)))
	})
}

// parsed is a result as the specification's library reads it in its version.
func parsed(t *testing.T, version string, data []byte) *types100.Result {
	t.Helper()
	r, err := create.Create(version, data)
	if err != nil || r.Version() != version {
		t.Fatalf("not a result of version %s: %v in %s", version, err, data)
	}
	latest, err := types100.NewResultFromResult(r)
	if err != nil {
		t.Fatal(err)
	}
	return latest
}

// withVersion is a result with its version in it.
func withVersion(version, result string) []byte {
	var members map[string]any
	if json.Unmarshal([]byte(result), &members) != nil || members == nil {
		return []byte(result)
	}
	members["cniVersion"] = version
	text, _ := json.Marshal(members) // of what was JSON
	return text
}

// wantFollowed compares a result with the one before it and the plugin's own.
func wantFollowed(t *testing.T, before, got *types100.Result) {
	t.Helper()
	n, p := someNetwork(), somePort()
	if len(got.Interfaces) != len(before.Interfaces)+3 || len(got.IPs) != len(before.IPs)+1 || len(got.Routes) != len(before.Routes)+1 {
		t.Fatalf("not what was before and our own: %s", text(t, got))
	}
	own := got.IPs[len(before.IPs)]
	if i := *own.Interface; i >= len(got.Interfaces) || got.Interfaces[i].Name != p.IfName || own.Address.String() != "10.244.1.2/32" {
		t.Errorf("our own address is %v, interfaces are %v", own, got.Interfaces)
	}
	if last := got.Interfaces[len(before.Interfaces)]; last.Name != n.bridge.Name {
		t.Errorf("our first interface is %v", last)
	}
	first := &types100.Result{
		CNIVersion: got.CNIVersion, DNS: got.DNS,
		Interfaces: got.Interfaces[:len(before.Interfaces)], IPs: got.IPs[:len(before.IPs)], Routes: got.Routes[:len(before.Routes)],
	}
	before.CNIVersion = got.CNIVersion
	if diff := cmp.Diff(text(t, before), text(t, first)); diff != "" {
		t.Errorf("what was before is not the same (- before, + after):\n%s", diff)
	}
}

func text(t *testing.T, r *types100.Result) string {
	t.Helper()
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// wantCNI checks that an error is a CNI error for the runtime, and not an
// internal one.
func wantCNI(t *testing.T, err error) {
	t.Helper()
	var reported *types.Error
	if !errors.As(err, &reported) {
		t.Errorf("not a CNI error: %v", err)
	}
}

// FuzzCheckedResult gives CHECK anything for the result of ADD. What it
// accepts has to be a port that can be compared with the kernel.
func FuzzCheckedResult(f *testing.F) {
	for _, seed := range []string{
		`{"interfaces":[{"name":"cni0"},{"name":"veth0"},{"name":"eth0","mac":"02:00:00:00:00:02","mtu":1450,"sandbox":"/n"}],` +
			`"ips":[{"version":"4","interface":2,"address":"10.244.1.2/32","gateway":"10.244.1.1"},{"version":"4","address":"10.9.0.1/8"}],` +
			`"routes":[{"dst":"0.0.0.0/0","gw":"10.244.1.1"},{"dst":"10.9.0.0/16"}]}`,
		`{"interfaces":[{"name":"eth0","mac":"","sandbox":"/n"}]}`,
		`{"interfaces":[null]}`, `{"ips":[null]}`, `{"routes":[null]}`, `{"ips":[{}]}`, `null`,
		`{"interfaces":[{"name":"eth0","mac":"02:00:00:00:00:02","sandbox":"/n"}],"ips":[null],"routes":[null]}`,
		`{"interfaces":[{"name":"eth0","mac":"02:00:00:00:00:02","sandbox":"/n"}],"ips":[{}],"routes":[{}]}`,
	} {
		for _, version := range versions {
			f.Add(version, withVersion(version, seed))
		}
	}
	f.Fuzz(func(t *testing.T, version string, data []byte) {
		if !slices.Contains(versions, version) || !json.Valid(data) {
			return
		}
		c := call{invocation: &invocation{ifName: "eth0", conf: &conf{CNIVersion: version, PrevResult: data}}}
		p, err := c.expected(nil)
		if err != nil {
			wantCNI(t, err)
			return
		}
		for _, a := range p.Addresses {
			if !a.Addr.IsValid() || a.Addr.Is4In6() {
				t.Errorf("address %v", a)
			}
		}
		for _, r := range p.Routes {
			if !r.Dst.IsValid() {
				t.Errorf("route %v", r)
			}
		}
	})
}
