package hosts

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
)

// A second network of a host can't have the daemon's bridge, whose gateways the daemon
// keeps exactly. The error says what to set, and with that it has a network.
func TestSecondNetworkBesideTheDaemon(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, subnet, gateway string }{
		{"IPv4", "10.9.0.0/24", "10.9.0.1/24"}, {"IPv6", "fd09::/64", "fd09::1/64"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, ctx := newFleet(t, 1, noResync), withPatience(t)
			h := f.hosts[0]
			f.quiet(ctx)
			before := f.state(h)
			p := newPluginOn(h, tc.subnet)
			_, cniErr := p.run(t, invocation{command: "ADD", id: "second", netns: sandboxtest.NewNetns(t).Path()})
			want := fmt.Sprintf(`network "test" has the gateway %s on bridge cni0, which belongs to overlayd and has the gateways of %v alone: set bridge to another name for this network`,
				tc.gateway, h.Subnets())
			if cniErr == nil || cniErr.Code != types.ErrInvalidNetworkConfig || !strings.Contains(cniErr.Msg, want) {
				t.Errorf("got  %v\nwant %s", cniErr, want)
			}
			f.sameState(before, f.state(h))

			p.conf["bridge"] = "cni1"
			ns, _ := p.add(t, "second")
			f.pingAll(ctx, ns, []netip.Addr{netip.MustParsePrefix(tc.gateway).Addr()})
		})
	}
}
