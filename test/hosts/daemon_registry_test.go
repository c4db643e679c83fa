package hosts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/pkg/subnet"
)

// Edits of the registry cost pods of uninvolved hosts no packet.
func TestDaemonRegistryEdits(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f := newFleet(t, 4, m.set)
		f.quiet(withPatience(t))
		uninvolved := f.hosts[2]
		before := asNew(f.state(uninvolved))
		streams := f.talk(withPatience(t), f.pods[2], f.pods[3])
		for _, tt := range []struct {
			name string
			edit func(*fleet, context.Context)
		}{
			{"a node joins", (*fleet).join},
			{"a node leaves while a daemon is down", (*fleet).leaveUnnoticed},
			{"a node leaves", (*fleet).leave},
			{"a node has another address", (*fleet).moveAddress},
			{"a node has another subnet", (*fleet).moveSubnet},
			{"two nodes swap their subnets", (*fleet).swapSubnets},
		} {
			if !t.Run(tt.name, func(t *testing.T) { tt.edit(f.sub(t), withPatience(t)) }) {
				return // the others begin where it ends
			}
		}
		f.noErrorsButLeaving()
		ctx := withPatience(t)
		f.must(f.lab.Register(f.hosts...))
		f.eventually(ctx, func(context.Context) error { return knows(f.hosts[0], entries(f.hosts[1:]...)) })
		f.end(ctx, streams)
		f.eventually(ctx, func(context.Context) error { return knows(uninvolved, entries(f.hosts[0], f.hosts[1], f.hosts[3])) })
		// A node's former address is let in for some more seconds.
		f.eventually(ctx, func(context.Context) error {
			if !slices.Equal(before, asNew(f.state(uninvolved))) {
				return errors.New("the host's state is another one")
			}
			return nil
		})
		f.sameState(before, asNew(f.state(uninvolved)))
	})
}

// peerEntries returns everything on a host's tunnel that is for peers.
func peerEntries(h *lab.Host) ([]string, error) {
	var found []string
	link, err := h.Handle().LinkByName(tunnel)
	if err != nil {
		return nil, err
	}
	routes, err := h.Handle().RouteList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		if r.Gw != nil { // the others are the kernel's, for its own address
			found = append(found, fmt.Sprintf("%s via %s", r.Dst, r.Gw))
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6, unix.AF_BRIDGE} {
		neighs, err := h.Handle().NeighList(link.Attrs().Index, family)
		if err != nil {
			return nil, err
		}
		for _, n := range neighs {
			if !n.IP.IsMulticast() {
				found = append(found, fmt.Sprintf("%s is %s", n.IP, n.HardwareAddr))
			}
		}
	}
	slices.Sort(found)
	return found, nil
}

// knows returns nil if the entries for peers on a host's tunnel are exactly the
// ones that these nodes need.
func knows(h *lab.Host, peers []entry) error {
	have, err := peerEntries(h)
	if err != nil {
		return err
	}
	var want []string
	for _, p := range peers {
		mac := subnet.VTEPMAC(p.subnets)
		want = append(want, fmt.Sprintf("%s is %s", p.addresses[0], mac))
		for _, s := range p.subnets {
			want = append(want, fmt.Sprintf("%s via %s", s, s.Addr()), fmt.Sprintf("%s is %s", s.Addr(), mac))
		}
	}
	slices.Sort(want)
	if !slices.Equal(have, want) {
		return fmt.Errorf("%s has for its peers\n%s\nand not\n%s", h.Name, strings.Join(have, "\n"), strings.Join(want, "\n"))
	}
	return nil
}

// noErrorsButLeaving fails if an edit took a second attempt. Only a host that
// lost its subnet may log an error, about its pods.
func (f *fleet) noErrorsButLeaving() {
	f.t.Helper()
	for _, h := range f.hosts {
		for line := range strings.Lines(h.Daemon().Log.String()) {
			expected := strings.Contains(line, "is not in the registry") || strings.Contains(line, "are in none of this node's subnets")
			if strings.Contains(line, "level=ERROR") && !expected {
				f.t.Errorf("%s logs %s", h.Name, line)
			}
		}
	}
}

func (f *fleet) leaveUnnoticed(ctx context.Context) {
	a, b, c, d := f.hosts[0], f.hosts[1], f.hosts[2], f.hosts[3]
	f.stop(ctx, a)
	f.must(f.lab.Register(a, c, d))
	f.must(knows(a, entries(b, c, d)))
	f.start(ctx, a)
	f.must(knows(a, entries(c, d)))
	f.must(f.lab.Register(f.hosts...))
	f.eventually(ctx, func(ctx context.Context) error { return ping(ctx, f.pods[0], f.pods[1]) })
}

func (f *fleet) leave(ctx context.Context) {
	a, b, c, d := f.hosts[0], f.hosts[1], f.hosts[2], f.hosts[3]
	f.must(f.lab.Register(a, c, d))
	f.eventually(ctx, func(context.Context) error { return knows(a, entries(c, d)) })
	f.must(b.Daemon().Log.Wait(ctx, `node \"host-b\" is not in the registry`))
	f.eventually(ctx, func(context.Context) error { return unpublished(b) })
	f.must(f.lab.Register(f.hosts...))
	f.must(b.Daemon().Log.Wait(ctx, "all is well again"))
	f.eventually(ctx, func(ctx context.Context) error { return ping(ctx, f.pods[0], f.pods[1]) })
}

func (f *fleet) moveAddress(ctx context.Context) {
	a, b := f.hosts[0], f.hosts[1]
	address := netip.MustParsePrefix("192.168.77.102/24")
	if b.Addresses()[0].Is6() {
		address = netip.MustParsePrefix("fd77::102/64")
	}
	link, err := b.Handle().LinkByName("eth0")
	f.must(err)
	f.must(b.Handle().AddrAdd(link, &netlink.Addr{IPNet: ipNetOf(address), Flags: unix.IFA_F_NODAD}))
	nodes := entries(f.hosts...)
	nodes[1].addresses = append([]netip.Addr{address.Addr()}, nodes[1].addresses[1:]...)
	f.register(nodes)
	f.eventually(ctx, func(context.Context) error { return knows(a, nodes[1:]) })
	f.eventually(ctx, func(context.Context) error { return sendsFrom(b, address.Addr()) })
	f.ping(ctx, f.pods[0], f.pods[1])
	f.ping(ctx, f.pods[1], f.pods[0])
}

// sendsFrom checks the tunnel's source address.
func sendsFrom(h *lab.Host, want netip.Addr) error {
	link, err := h.Handle().LinkByName(tunnel)
	if err != nil {
		return err
	}
	v, ok := link.(*netlink.Vxlan)
	if !ok || v.SrcAddr.String() != want.String() {
		return fmt.Errorf("%s: the tunnel sends from %+v, not %s", h.Name, link, want)
	}
	return nil
}

func (f *fleet) moveSubnet(ctx context.Context) {
	nodes := entries(f.hosts...)
	nodes[1].subnets = nil
	for _, s := range f.hosts[1].Subnets() {
		nodes[1].subnets = append(nodes[1].subnets, likeOf(s, "10.244.102.0/24", "fd44:0:0:102::/64"))
	}
	f.moveTo(ctx, nodes)
}

// likeOf returns the constant of the same family.
func likeOf(p netip.Prefix, ipv4, ipv6 string) netip.Prefix {
	if p.Addr().Is4() {
		return netip.MustParsePrefix(ipv4)
	}
	return netip.MustParsePrefix(ipv6)
}

func (f *fleet) swapSubnets(ctx context.Context) {
	nodes := entries(f.hosts...)
	nodes[0].subnets, nodes[1].subnets = nodes[1].subnets, nodes[0].subnets
	f.moveTo(ctx, nodes)
}

// moveTo changes the subnets of the first two hosts, whose pods have to be made
// anew for that.
func (f *fleet) moveTo(ctx context.Context, nodes []entry) {
	f.t.Helper()
	f.register(nodes)
	for i, h := range f.hosts {
		others := slices.Delete(slices.Clone(nodes), i, i+1)
		f.eventually(ctx, func(context.Context) error { return knows(h, others) })
		f.eventually(ctx, func(context.Context) error {
			if got := f.published(h).Subnets; !slices.Equal(got, nodes[i].subnets) {
				return fmt.Errorf("%s published %v", h.Name, got)
			}
			return nil
		})
	}
	for i, h := range f.hosts[:2] {
		f.must(f.pods[i].Delete(ctx))
		f.pods[i] = f.addPod(ctx, h, "pod")
		for j, s := range nodes[i].subnets {
			if got := f.pods[i].Addresses[j]; !s.Contains(got) {
				f.t.Errorf("%s: the pod has %s, not of %s", h.Name, got, s)
			}
		}
	}
	for _, from := range f.pods {
		for _, to := range f.pods {
			if from != to {
				f.eventually(ctx, func(ctx context.Context) error { return ping(ctx, from, to) })
			}
		}
	}
}

// In Kubernetes, pods outlive their node's subnet if the Node is deleted and
// comes back at once.
func TestDaemonTellsOfPodsThatAreCutOff(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f, ctx := newFleet(t, 1, m.set, noResync), withPatience(t)
		nodes := entries(f.hosts...)
		nodes[0].subnets = m.prefixes("10.244.102.0/24", "fd44:0:0:102::/64")
		f.register(nodes)
		f.must(f.hosts[0].Daemon().Log.Wait(ctx, fmt.Sprintf("%d pod addresses are in none of this node's subnets", len(m.subnets))))
		f.must(f.pods[0].Delete(ctx))
		f.must(f.hosts[0].Daemon().Log.Wait(ctx, "all is well again"))
	})
}

func (f *fleet) join(ctx context.Context) {
	e, err := f.lab.AddHost("host-e")
	f.must(err)
	f.must(f.lab.Register(append(slices.Clone(f.hosts), e)...))
	f.start(ctx, e)
	pod := f.addPod(ctx, e, "pod")
	for i, h := range f.hosts {
		f.eventually(ctx, func(ctx context.Context) error { return ping(ctx, pod, f.pods[i]) })
		f.ping(ctx, f.pods[i], pod)
		if log := h.Daemon().Log.String(); !regexp.MustCompile(`changed the host" part=tunnel .*` + regexp.QuoteMeta(e.Subnets()[0].String())).MatchString(log) {
			f.t.Errorf("%s does not log the new peer:\n%s", h.Name, log)
		}
	}
	f.must(f.lab.Register(f.hosts...))
	f.eventually(ctx, func(context.Context) error { return knows(f.hosts[0], entries(f.hosts[1:]...)) })
	f.must(e.Remove())
}

// The daemon repairs the tunnel once the registry lists the host again, even
// after a restart: it still knows that the device's name is its own.
func TestDaemonKnowsItsTunnelAfterLeaving(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	ctx := withPatience(t)
	h, other := f.hosts[0], f.hosts[1]
	f.must(f.lab.Register(other))
	f.eventually(ctx, func(context.Context) error {
		if _, err := os.Stat(filepath.Join(h.RunDir(), "node.json")); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("it is published still: %w", err)
		}
		return nil
	})
	f.must(onLink(tunnel, func(handle *netlink.Handle, l netlink.Link) error {
		strange := *l.(*netlink.Vxlan)
		strange.VxlanId, strange.Index, strange.Alias = 99, 0, ""
		return errors.Join(handle.LinkDel(l), handle.LinkAdd(&strange))
	})(h.Handle()))
	f.stop(ctx, h)
	f.launch(h)
	f.must(f.lab.Register(f.hosts...))
	f.eventually(ctx, func(ctx context.Context) error { return ping(ctx, f.pods[0], f.pods[1]) })
}

// An address in the registry that this host doesn't have cuts it off. The host says so,
// and what to do, until the address is right, or is said to be translated.
func TestDaemonTellsOfAWrongAddress(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f, ctx := newFleet(t, 2, m.set, withHealth), withPatience(t)
		a := f.hosts[0]
		nodes := entries(f.hosts...)
		right := nodes[0].addresses
		wrong := likeOf(netip.PrefixFrom(right[0], right[0].BitLen()), "192.168.77.99/32", "fd77::99/128").Addr()
		nodes[0].addresses = append([]netip.Addr{wrong}, right[1:]...)
		f.register(nodes)
		f.eventually(ctx, func(ctx context.Context) error {
			return says(ctx, a, "/readyz", http.StatusServiceUnavailable, "network: down since ", "so other hosts drop its packets",
				"other hosts send to an address that this host doesn't have: the registry says "+wrong.String())
		})
		// A router that translates the address would make this right.
		f.must(f.lab.WriteRegistry([]byte(translated(nodes))))
		f.eventuallyReady(ctx, a)
		f.register(nodes)
		f.eventually(ctx, func(ctx context.Context) error {
			return says(ctx, a, "/readyz", http.StatusServiceUnavailable, "so other hosts drop its packets")
		})
		f.must(f.lab.Register(f.hosts...))
		f.eventuallyReady(ctx, a)
		f.eventually(ctx, func(ctx context.Context) error { return ping(ctx, f.pods[1], f.pods[0]) })
	})
}
