package hosts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/pkg/guard"
	"github.com/overlay-cni/overlay-cni/pkg/hostport"
)

// webPod has port 8080 of its host.
func (f *fleet) webPod(ctx context.Context, h *lab.Host, name string) *lab.Pod {
	f.t.Helper()
	p, err := h.AddPod(ctx, lab.PodSpec{Name: name, Config: h.PluginConfig(map[string]any{
		"runtimeConfig": map[string]any{"portMappings": []map[string]any{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}},
	})})
	f.must(err)
	return p
}

// attached returns everything that a host keeps for its pods.
func (f *fleet) attached(h *lab.Host) []string {
	f.t.Helper()
	p := &pluginHost{host: h}
	lines := append(p.portLines(f.t), p.guardLines(f.t)...)
	for _, l := range listed(f, h.Handle().LinkList) {
		if l.Type() == "veth" && l.Attrs().Name != "eth0" || l.Type() == "ifb" {
			lines = append(lines, "link "+l.Attrs().Name)
		}
	}
	f.must(filepath.WalkDir(h.RunDir(), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.Contains(path, "/cursors/") {
			lines = append(lines, "file "+path)
		}
		return err
	}))
	slices.Sort(lines)
	return lines
}

func (f *fleet) eventuallyAttached(ctx context.Context, h *lab.Host, want []string) {
	f.t.Helper()
	f.eventually(ctx, func(context.Context) error {
		if diff := cmp.Diff(want, f.attached(h)); diff != "" {
			return fmt.Errorf("(-want +have):\n%s", diff)
		}
		return nil
	})
}

func TestDaemonRemovesWhatPodsLeft(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f := newFleet(t, 1, m.set, noResync)
		h := f.hosts[0]
		before := f.attached(h)
		run := func(name ...string) string { return filepath.Join(append([]string{h.RunDir()}, name...)...) }
		for name, leave := range map[string]func(f *fleet, ctx context.Context){
			"a pod vanishes": func(f *fleet, ctx context.Context) {
				f.must(f.webPod(ctx, h, "vanishing").Vanish())
			},
			"a pod's port is deleted": func(f *fleet, ctx context.Context) {
				f.webPod(ctx, h, "unplugged")
				f.must(onPort(func(handle *netlink.Handle, l netlink.Link) error {
					if l.Attrs().Alias != "lab/unplugged" {
						return errNext
					}
					return handle.LinkDel(l)
				})(h.Handle()))
			},
			"an ADD was killed at its beginning": func(f *fleet, ctx context.Context) {
				f.must(os.WriteFile(run("attachments", "killed@eth0.json"), nil, 0o600))
				f.must(os.Symlink("../attachments/killed@eth0.json", run("addresses", nthOf(h, 77))))
				f.must(f.webPod(ctx, h, "short").Delete(ctx)) // whose coming and going is what is noticed
			},
			"somebody removed an attachment's file": func(f *fleet, ctx context.Context) {
				f.must(os.Symlink("../attachments/gone@eth0.json", run("addresses", nthOf(h, 78))))
				f.must(f.webPod(ctx, h, "shorter").Delete(ctx))
			},
		} {
			t.Run(name, func(t *testing.T) {
				f, ctx := f.sub(t), withPatience(t)
				leave(f, ctx)
				f.eventuallyAttached(ctx, h, before)
			})
		}
	})
}

// nthOf is a late address of a host's first pod subnet.
func nthOf(h *lab.Host, n byte) string {
	b := h.Subnets()[0].Addr().AsSlice()
	b[len(b)-1] = n
	a, _ := netip.AddrFromSlice(b)
	return a.String()
}

func TestDaemonHealsHostPorts(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f := newFleet(t, 2, m.set, noResync)
		h, client := f.hosts[0], f.hosts[1]
		web := f.webPod(withPatience(t), h, "web")
		for _, a := range web.Addresses {
			server, err := probe.ServeMirror(web.Netns(), netip.AddrPortFrom(a, 80))
			f.must(err)
			t.Cleanup(func() { server.Close() })
		}
		ports := map[bool]string{true: "ports4", false: "ports6"}[m.hasIPv4()]
		before := f.attached(h)
		const table = "inet " + hostport.TableName
		for name, change := range map[string]string{
			"the table is deleted":              "delete table " + table,
			"all rules of the host are deleted": "flush ruleset",
			"the ports are closed":              "flush map " + table + " " + ports,
			"a port is opened for nobody":       fmt.Sprintf("add element %s %s { tcp . 8081 : %s . 80 }", table, ports, web.Addresses[0]),
		} {
			t.Run(name, func(t *testing.T) {
				f, ctx := f.sub(t), withPatience(t)
				f.nft(h, change)
				f.eventuallyAttached(ctx, h, before)
				for _, a := range h.Addresses() {
					_, err := probe.TCP(ctx, client.Netns(), netip.AddrPortFrom(a, 8080))
					f.must(err)
				}
			})
		}
	})
}

// TestDaemonHealsTheGuard: its chains are exactly ours again, and so are its elements.
func TestDaemonHealsTheGuard(t *testing.T) {
	t.Parallel()
	dual(t, func(t *testing.T, m mode) {
		f := newFleet(t, 1, m.set, noResync)
		h := f.hosts[0]
		f.webPod(withPatience(t), h, "web")
		const table = "bridge " + guard.TableName
		before, rules := f.attached(h), f.guardRules(h)
		for name, change := range map[string]string{
			"the table is deleted":              "delete table " + table,
			"all rules of the host are deleted": "flush ruleset",
			"its rules are deleted":             "flush table " + table,
			"no port is guarded":                "flush set " + table + " ports",
			"the pod has no address":            "flush set " + table + " sources4; flush set " + table + " sources6",
			"a pod that isn't there":            "add element " + table + " ports { vethgone }; add element " + table + " macs { 2:0:0:0:0:9 }",
			"a rule is put before ours":         "insert rule " + table + " prerouting accept",
			"the chain accepts what comes":      "add rule " + table + " pod accept; flush chain " + table + " prerouting",
		} {
			t.Run(name, func(t *testing.T) {
				f, ctx := f.sub(t), withPatience(t)
				f.nft(h, change)
				f.eventuallyAttached(ctx, h, before)
				f.eventually(ctx, func(context.Context) error {
					if diff := cmp.Diff(rules, f.guardRules(h)); diff != "" {
						return fmt.Errorf("(-want +have):\n%s", diff)
					}
					return nil
				})
			})
		}
	})
}

// TestFlowsEndWithTheirPod: the next pod with the address doesn't inherit them.
func TestFlowsEndWithTheirPod(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f, ctx := newFleet(t, 1, m.set, noResync), withPatience(t)
		h := f.hosts[0]
		gone, stays := f.webPod(ctx, h, "gone"), f.addPod(ctx, h, "stays")
		outside := map[bool]netip.Addr{true: netip.MustParseAddr("203.0.113.1"), false: netip.MustParseAddr("2001:db8::1")}
		for i, p := range []*lab.Pod{gone, stays} {
			for _, a := range p.Addresses {
				f.must(track(h, a, outside[a.Is4()], uint16(1000+i)))
			}
		}
		f.looked(ctx, h)
		if got, want := len(tracked(t, h)), 2*len(m.subnets); got != want {
			t.Fatalf("%d flows of living pods, want %d", got, want)
		}
		f.must(gone.Delete(ctx))
		f.eventually(ctx, func(context.Context) error {
			left := tracked(t, h)
			for _, a := range left {
				if slices.Contains(gone.Addresses, a) {
					return fmt.Errorf("%s still has a flow", a)
				}
			}
			if len(left) != len(stays.Addresses) {
				return fmt.Errorf("flows of %v are left, want those of %v", left, stays.Addresses)
			}
			return nil
		})
	})
}

// track makes the host remember a UDP flow.
func track(h *lab.Host, from, to netip.Addr, port uint16) error {
	return h.Netns().Do(func() error {
		handle, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer handle.Close()
		f := family.Of(from)
		return handle.ConntrackCreate(netlink.ConntrackTable, netlink.InetFamily(f), &netlink.ConntrackFlow{
			FamilyType: uint8(f), TimeOut: 1000,
			Forward: netlink.IPTuple{SrcIP: from.AsSlice(), DstIP: to.AsSlice(), SrcPort: port, DstPort: 53, Protocol: unix.IPPROTO_UDP},
			Reverse: netlink.IPTuple{SrcIP: to.AsSlice(), DstIP: from.AsSlice(), SrcPort: 53, DstPort: port, Protocol: unix.IPPROTO_UDP},
		})
	})
}

// tracked are the senders of the flows to port 53 that the host remembers.
func tracked(t *testing.T, h *lab.Host) []netip.Addr {
	t.Helper()
	var all []netip.Addr
	err := h.Netns().Do(func() error {
		handle, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer handle.Close()
		for _, f := range family.All() {
			flows, listErr := handle.ConntrackTableList(netlink.ConntrackTable, netlink.InetFamily(f))
			for _, flow := range flows {
				if flow.Forward.DstPort == 53 {
					all = append(all, addrOf(flow.Forward.SrcIP))
				}
			}
			err = errors.Join(err, listErr)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// guardRules is what nft lists of the guard's chains.
func (f *fleet) guardRules(h *lab.Host) string {
	f.t.Helper()
	out, err := nft(h, "-s", "list", "chains", "bridge")
	f.must(err)
	for _, chain := range []string{"prerouting", "pod", "arp", "ipv6"} {
		text, err := nft(h, "-s", "list", "chain", "bridge", guard.TableName, chain)
		if err != nil {
			text = err.Error()
		}
		out += text
	}
	return out
}

// TestDaemonGuardsNoPodIfTold: the setting is for all pods of a host, those that run
// as well.
func TestDaemonGuardsNoPodIfTold(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, noResync, func(c *lab.Config) { c.DaemonArgs = append(c.DaemonArgs, "--anti-spoofing=false") })
	h := f.hosts[0]
	f.webPod(withPatience(t), h, "web")
	if lines := (&pluginHost{host: h}).guardLines(t); len(lines) > 0 {
		t.Errorf("the guard has %q", lines)
	}
}

// The daemon leaves alone what it can't understand: a newer version may have
// written the record, and another program may have named the port.
func TestDaemonLeavesPodsThatItDoesNotUnderstand(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, noResync)
	h := f.hosts[0]
	web := f.webPod(withPatience(t), h, "web")
	record := filepath.Join(h.RunDir(), "attachments", web.Netns().Name()+"@eth0.json")
	good, err := os.ReadFile(record)
	f.must(err)
	before := f.attached(h)
	for name, change := range map[string]func(*fleet){
		"a newer record": func(f *fleet) {
			f.must(os.WriteFile(record, []byte(strings.Replace(string(good), `"version":1`, `"version":2`, 1)), 0o600))
		},
		"a damaged record": func(f *fleet) { f.must(os.WriteFile(record, []byte("{"), 0o600)) },
	} {
		t.Run(name, func(t *testing.T) {
			f, ctx := f.sub(t), withPatience(t)
			change(f)
			f.looked(ctx, h)
			if diff := cmp.Diff(before, f.attached(h)); diff != "" {
				t.Errorf("(-before +after):\n%s", diff)
			}
			f.must(os.WriteFile(record, good, 0o600))
		})
	}
	t.Run("a renamed port", func(t *testing.T) {
		f, ctx := f.sub(t), withPatience(t)
		f.must(onPort(func(handle *netlink.Handle, l netlink.Link) error {
			if l.Attrs().Alias != "lab/web" {
				return errNext
			}
			return errors.Join(handle.LinkSetDown(l), handle.LinkSetName(l, "vethother"), handle.LinkSetUp(l))
		})(h.Handle()))
		f.looked(ctx, h)
		if have := f.attached(h); !slices.Contains(have, "file "+record) {
			t.Errorf("its attachment is gone: %v", have)
		}
	})
}

// looked returns after a whole round for pods that began after this call.
func (f *fleet) looked(ctx context.Context, h *lab.Host) {
	f.t.Helper()
	const round = "msg=reconciled round=pods"
	rounds := func() int { return strings.Count(h.Daemon().Log.String(), round) }
	enough := rounds() + 2                                                    // one may be under way
	noise := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "vethnoise"}} // a name as pods' ports have
	for now := rounds(); now < enough; now = rounds() {
		f.must(errors.Join(h.Handle().LinkAdd(noise), h.Handle().LinkDel(noise)))
		f.must(probe.Eventually(ctx, func(context.Context) error {
			if rounds() == now {
				return errors.New("no round for pods")
			}
			return nil
		}))
	}
}
