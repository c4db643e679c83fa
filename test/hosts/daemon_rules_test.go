package hosts

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/rtnl"
	"github.com/overlay-cni/overlay-cni/pkg/iprule"
)

// ownRules returns our rules of policy routing on a host.
func (f *fleet) ownRules(h *lab.Host) []string {
	f.t.Helper()
	var all []string
	f.on(h.Netns(), func() error {
		conn, err := rtnl.Open()
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		for _, fam := range family.All() {
			err = errors.Join(err, conn.EachRule(fam, func(r rtnl.RuleEntry) {
				if r.Protocol == iprule.Protocol {
					all = append(all, r.String())
				}
			}))
		}
		return err
	})
	return all
}

// reachesPods returns nil if the first host reaches pods from its own address, and all
// pods each other.
func (f *fleet) reachesPods(ctx context.Context) error {
	a := f.hosts[0]
	errs := []error{ping(ctx, f.pods[0], f.pods[1]), ping(ctx, f.pods[1], f.pods[0])}
	for _, src := range a.Addresses() {
		for _, pod := range f.pods {
			for _, dst := range pod.Addresses {
				if dst.Is4() == src.Is4() {
					_, err := probe.PingFrom(ctx, a.Netns(), src, dst)
					errs = append(errs, err)
				}
			}
		}
	}
	return errors.Join(errs...)
}

// misleading are rules of policy routing that lead pods' packets out of a host by the
// interface away0, unless something keeps them. The table 30400 has that route. Each
// has a priority of its own, and so have our rules before it: who makes the daemon add
// and delete the same rule again and again contests it.
func misleading(h *lab.Host, option string) map[string][][]string {
	var own netip.Addr
	for _, a := range h.Addresses() {
		if familyOf(a) == option {
			own = a
		}
	}
	return map[string][][]string{
		"the host's own address":     {{"pref", "31010", "from", own.String(), "lookup", "30400"}},
		"what a VPN has not marked":  {{"pref", "31020", "not", "fwmark", "51820", "lookup", "30400"}},
		"wg-quick":                   {{"pref", "31031", "not", "fwmark", "51820", "lookup", "30400"}, {"pref", "31030", "lookup", "main", "suppress_prefixlength", "0"}},
		"what comes from pods":       {{"pref", "31040", "iif", "cni0", "lookup", "30400"}},
		"what comes from the tunnel": {{"pref", "31050", "iif", "overlay0", "lookup", "30400"}},
		"everything, like tailscale": {{"pref", "5210", "fwmark", "0x80000/0xff0000", "lookup", "main"}, {"pref", "5270", "lookup", "30400"}},
		"everything, early":          {{"pref", "1", "lookup", "30400"}},
	}
}

// awayTable fills the table 30400: a default route by away0. The hosts still reach each
// other, since the tunnel's own packets are none of pods.
func (f *fleet) awayTable(h *lab.Host, option string) {
	f.t.Helper()
	f.command(h, "ip", option, "route", "add", "default", "dev", "away0", "table", "30400")
	for _, s := range f.lab.Segments() {
		if familyOf(s.Addr()) == option {
			f.command(h, "ip", option, "route", "add", s.Masked().String(), "dev", "eth0", "table", "30400")
		}
	}
}

// Rules of policy routing lead packets to pods nowhere else, and ours go with them.
func TestDaemonKeepsPodsInTheMainTable(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f := newFleet(t, 2, m.set, withHealth)
		a := f.hosts[0]
		f.command(a, "ip", "link", "add", "away0", "type", "bridge")
		f.command(a, "ip", "link", "set", "away0", "up")
		for _, subnet := range a.Subnets() {
			option := familyOf(subnet.Addr())
			f.awayTable(a, option)
			for name, rules := range misleading(a, option) {
				t.Run(option+" "+name, func(t *testing.T) {
					f, ctx := f.sub(t), withPatience(t)
					for _, r := range rules {
						f.command(a, "ip", append([]string{option, "rule", "add"}, r...)...)
					}
					f.eventually(ctx, func(ctx context.Context) error {
						if n := len(f.ownRules(a)); (n == 0) != (name == "wg-quick") {
							return fmt.Errorf("%d rules are ours", n)
						}
						return f.reachesPods(ctx)
					})
					f.eventuallyReady(ctx, a)
					for _, r := range rules {
						f.command(a, "ip", append([]string{option, "rule", "del"}, r...)...)
					}
					f.eventually(ctx, func(context.Context) error {
						if left := f.ownRules(a); len(left) > 0 {
							return fmt.Errorf("left: %s", left)
						}
						return nil
					})
				})
			}
		}
	})
}

// Our rules are kept, and move before rules that come later.
func TestDaemonKeepsItsRules(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f, ctx := newFleet(t, 2, m.set, withHealth), withPatience(t)
		a := f.hosts[0]
		var all []string
		settled := func() {
			f.eventually(ctx, func(context.Context) error {
				if all = f.ownRules(a); len(all) != 2*len(a.Subnets()) { // the two hosts' subnets are no neighbours
					return fmt.Errorf("our rules are %s", all)
				}
				return nil
			})
		}
		for _, subnet := range a.Subnets() {
			f.command(a, "ip", familyOf(subnet.Addr()), "rule", "add", "iif", "cni0", "lookup", "30400", "pref", "300")
		}
		settled()
		for _, subnet := range a.Subnets() {
			f.command(a, "ip", familyOf(subnet.Addr()), "rule", "del", "pref", "299")
		}
		settled()
		for _, subnet := range a.Subnets() { // without a priority, a rule comes before all others
			f.command(a, "ip", familyOf(subnet.Addr()), "rule", "add", "from", "all", "iif", "eth0", "lookup", "30400")
		}
		f.eventually(ctx, func(context.Context) error {
			all = f.ownRules(a)
			for _, r := range all {
				if !strings.HasPrefix(r, "pref 297 ") && !strings.HasPrefix(r, "pref 298 ") {
					return fmt.Errorf("our rules are %s", all)
				}
			}
			return nil
		})
		f.must(f.reachesPods(ctx))
	})
}

// A rule that comes even before the host's own addresses can't be kept from pods'
// packets, and /readyz says so.
func TestDaemonReportsRulesThatComeFirst(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f, ctx := newFleet(t, 2, m.set, withHealth), withPatience(t)
		a := f.hosts[0]
		f.command(a, "ip", "link", "add", "away0", "type", "bridge")
		f.command(a, "ip", "link", "set", "away0", "up")
		option := familyOf(a.Subnets()[0].Addr())
		f.awayTable(a, option)
		own := a.Addresses()[0].String()
		f.command(a, "ip", option, "rule", "add", "pref", "100", "lookup", "local")
		f.command(a, "ip", option, "rule", "add", "pref", "9", "from", own, "lookup", "30400")
		f.command(a, "ip", option, "rule", "del", "pref", "0")
		f.must(probe.Eventually(ctx, func(ctx context.Context) error {
			return says(ctx, a, "/readyz", http.StatusOK, "network: degraded since ", "packets from "+own+" to pods", "don't leave by cni0")
		}))
		f.command(a, "ip", option, "rule", "del", "pref", "9")
		f.eventuallyReady(ctx, a)
	})
}
