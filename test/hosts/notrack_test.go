package hosts

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
)

// trackings are whether connection tracking sees the tunnel's packets.
var trackings = []struct {
	name    string
	args    []string
	tracked bool
}{
	{"by default", nil, false},
	{"tracked", []string{"--vxlan-notrack=false"}, true},
}

// Each flow in the tunnel has a source port of its own, so tracking would have an entry
// for each.
func TestTunnelIsNotTracked(t *testing.T) {
	t.Parallel()
	const flows = 1000
	for _, s := range trackings {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			eachFamily(t, func(t *testing.T, m mode) {
				f := newFleet(t, 2, m.set, func(c *lab.Config) { c.DaemonArgs = append(c.DaemonArgs, s.args...) })
				f.flows(withPatience(t), flows)
				for _, h := range f.hosts {
					got := f.trackedOuter(h)
					t.Logf("%s has %d entries for the packets around %d flows", h.Name, got, flows)
					if s.tracked != (got > flows/2) || !s.tracked && got > 0 {
						t.Errorf("%s has %d entries for the tunnel's packets", h.Name, got)
					}
				}
			})
		})
	}
}

// flows makes UDP flows from the first pod to the second one.
func (f *fleet) flows(ctx context.Context, n int) {
	f.t.Helper()
	echo, err := probe.ServeEcho(f.pods[1].Netns(), netip.AddrPortFrom(f.pods[1].Addresses[0], 0))
	f.must(err)
	defer echo.Close()
	_, err = probe.UDP(ctx, f.pods[0].Netns(), echo.Addr)
	f.must(err)
	f.on(f.pods[0].Netns(), func() error {
		for range n {
			c, err := net.Dial("udp", echo.Addr.String())
			if err != nil {
				return err
			}
			_, err = c.Write([]byte("hello"))
			c.Close()
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// trackedOuter counts the host's entries for the tunnel's packets.
func (f *fleet) trackedOuter(h *lab.Host) int {
	f.t.Helper()
	n := 0
	f.on(h.Netns(), func() error {
		for _, family := range []netlink.InetFamily{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			// The hosts' handles have no netfilter socket.
			flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family) //nolint:forbidigo // f.on enters the namespace
			if err != nil {
				return err
			}
			for _, flow := range flows {
				if flow.Forward.DstPort == tunnelPort {
					n++
				}
			}
		}
		return nil
	})
	return n
}

// What rules of a host's own firewall mean for the tunnel, tracked and not. The first
// one is what firewalld, ufw and most people write.
func TestTunnelBehindAFirewall(t *testing.T) {
	t.Parallel()
	const established = "ct state established,related accept"
	for _, tt := range []struct {
		name, ports        string
		rules              []string
		tracked, untracked bool // whether pods reach each other
	}{
		{"the port", "auto", []string{established, "udp dport 4789 accept"}, true, true},
		{"the port, and what is invalid first", "auto", []string{"ct state invalid drop", established, "udp dport 4789 accept"}, true, true},
		{"the port, new or untracked", "auto", []string{established, "udp dport 4789 ct state new,untracked accept"}, true, true},
		{"the port, new alone", "auto", []string{established, "udp dport 4789 ct state new accept"}, true, false},
		{"nothing", "auto", []string{established}, false, false},
		{"nothing, with equal ports", "4789-4790", []string{established}, true, false},
	} {
		for _, s := range trackings {
			t.Run(tt.name+"/"+s.name, func(t *testing.T) {
				t.Parallel()
				eachFamily(t, func(t *testing.T, m mode) {
					f := newFleet(t, 2, m.set, func(c *lab.Config) {
						c.DaemonArgs = append(append(c.DaemonArgs, "--vxlan-source-ports="+tt.ports), s.args...)
					})
					for _, h := range f.hosts {
						f.nft(h, "add table inet own; add chain inet own in { type filter hook input priority 0; policy drop; }; "+
							"add rule inet own in meta l4proto { icmp, icmpv6 } accept")
						for _, r := range tt.rules {
							f.nft(h, "add rule inet own in "+r)
						}
					}
					want := tt.untracked
					if s.tracked {
						want = tt.tracked
					}
					if got := f.met(want); got != want {
						t.Errorf("the pods reach each other: %t, want %t", got, want)
					}
				})
			})
		}
	}
}

// met reports whether both pods get through to each other. Both send, since the first
// packets may open the way for others. Where they should not, a few tries are enough.
func (f *fleet) met(want bool) bool {
	f.t.Helper()
	wait := healing
	if !want {
		wait = 2 * time.Second
	}
	results := make(chan error, 2)
	for i, p := range f.pods[:2] {
		ctx, cancel := context.WithTimeout(f.t.Context(), wait)
		defer cancel()
		go func() {
			results <- probe.Eventually(ctx, func(ctx context.Context) error {
				ctx, cancel := context.WithTimeout(ctx, time.Second/2)
				defer cancel()
				_, err := probe.Ping(ctx, p.Netns(), f.pods[1-i].Addresses[0])
				return err
			})
		}()
	}
	first, second := <-results, <-results
	if (first == nil) != (second == nil) {
		f.t.Log(fmt.Sprint("one way alone: ", first, second))
	}
	return first == nil && second == nil
}
