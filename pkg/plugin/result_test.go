package plugin

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"reflect"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"

	"github.com/overlay-cni/overlay-cni/pkg/bridge"
)

// TestResultIsWhatTheLibraryWouldWrite compares the result that is written by
// hand with that of the specification's own library, in every version.
func TestResultIsWhatTheLibraryWouldWrite(t *testing.T) {
	gateways := []netip.Prefix{netip.MustParsePrefix("10.244.1.1/24"), netip.MustParsePrefix("fd00::1/64")}
	n := network{bridge: bridge.Spec{Name: "cni0", MTU: 1450, Gateways: gateways}}
	port := bridge.Port{
		HostName: "veth0", IfName: "eth0", MTU: 1450,
		HostMAC: []byte{2, 0, 0, 0, 0, 1}, MAC: []byte{2, 0, 0, 0, 0, 2},
		Addresses: []bridge.Address{
			{Addr: netip.MustParseAddr("10.244.1.2"), Gateway: gateways[0].Addr()},
			{Addr: netip.MustParseAddr("fd00::2"), Gateway: gateways[1].Addr()},
		},
		Routes: []bridge.Route{{Dst: netip.MustParsePrefix("::/0"), Via: gateways[1].Addr()}, {Dst: netip.MustParsePrefix("192.0.2.0/24"), Via: gateways[0].Addr()}},
	}
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		for _, dns := range []string{"", `{"nameservers":["10.96.0.10"],"search":["x \"y\""]}`} {
			// Without a result before it, that of a list is the plugin's own.
			empty := []byte(`{"cniVersion":"` + version + `"}`)
			c := conf{CNIVersion: version, DNS: json.RawMessage(dns), PrevResult: empty}
			var ours, theirs bytes.Buffer
			if err := c.write(&ours, n, port, "/run/netns/x"); err != nil {
				t.Fatal(err)
			}
			if err := c.writeAfter(&theirs, n, port, "/run/netns/x"); err != nil {
				t.Fatal(err)
			}
			if got, want := read(t, version, ours.Bytes()), read(t, version, theirs.Bytes()); !reflect.DeepEqual(got, want) {
				t.Errorf("%s:\ngot  %s\nwant %s", version, &ours, &theirs)
			}
		}
	}
}

// read parses a result in the version that it has. The library writes the MTU
// in version 1.0.0 too, which doesn't have it.
func read(t *testing.T, version string, data []byte) *types100.Result {
	t.Helper()
	parsed, err := create.Create(version, data)
	if err != nil || parsed.Version() != version {
		t.Fatalf("%v in %s", err, data)
	}
	r, err := types100.NewResultFromResult(parsed)
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range r.Interfaces {
		if version == "1.0.0" {
			link.Mtu = 0
		}
	}
	return r
}
