package daemon

import (
	"errors"
	"reflect"
	"slices"

	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/iptables"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

// rules are what netfilter should have, whichever way it is said.
type rules struct {
	mode  config.Firewall
	table firewall.State // of nftables
	// instead is the same for iptables.
	instead iptables.State
	// forward is in iptables whatever masquerades.
	forward iptables.State
	// number is another one whenever rules are computed anew, from 1.
	number int
}

// lastRules are those that were computed last, and from what: nodes change
// their addresses far more often than their subnets.
type lastRules struct {
	in    input
	rules rules
	known bool
}

func (l *lastRules) of(in input) (rules, error) {
	if l.known && in.own.Equal(l.in.own) && registry.SameSubnets(in.nodes, l.in.nodes) && reflect.DeepEqual(in.config, l.in.config) {
		l.in = in // so that the older nodes are not kept
		return l.rules, nil
	}
	r, err := rulesOf(in)
	r.number = l.rules.number + 1
	*l = lastRules{in: in, rules: r, known: err == nil}
	return r, err
}

func rulesOf(in input) (rules, error) {
	c := firewall.Config{
		Own: in.own.Subnets, Network: podSubnets(in.nodes), NoMasqueradeTo: in.config.NoMasqueradeTo,
		Masquerade: in.config.Masquerade, Bridge: in.config.Bridge,
	}
	table, err := firewall.Desired(c)
	if err != nil {
		return rules{}, err
	}
	r := rules{mode: in.config.Firewall, table: table}
	if r.mode != config.FirewallNFTables {
		if r.instead, err = iptables.Instead(c); err != nil {
			return rules{}, err
		}
	}
	if in.config.IPTablesForward {
		r.forward, err = iptables.Forward(iptables.Pods{Own: in.own.Subnets, Bridge: in.config.Bridge, Tunnel: in.config.VXLAN.Device})
	}
	return r, err
}

// syncRules masquerades by nftables or by iptables. Where it changes, there are
// both for a moment: with neither, connections would begin with pods' addresses.
func (d *daemon) syncRules(want rules) error {
	if want.mode == config.FirewallIPTables {
		return errors.Join(d.syncChains(want.forward, want.instead), d.withoutTable())
	}
	table := d.syncTable(want)
	if want.mode == config.FirewallAuto && errors.Is(table, firewall.ErrUnsupported) {
		return d.syncChains(want.forward, want.instead)
	}
	return errors.Join(table, d.syncChains(want.forward))
}

// settled says what the firewall's table was when it was found to be right.
// The zero value: it was not, or that is not to be believed any more.
type settled struct {
	// generation is nf_tables' number of changes to any table: as long as it is
	// the same nothing has changed.
	generation uint64
	number     int // of the rules
}

// syncTable reads the table only if something in nf_tables changed, or what is
// wanted: with the subnets of thousands of nodes in its sets it is long.
func (d *daemon) syncTable(want rules) error {
	f, unknown := d.iptables.Fingerprint(nil)
	now := settled{f.Generation, want.number}
	if unknown == nil && now.generation != 0 && now == d.settled {
		return nil
	}
	d.settled = settled{}
	changes, err := d.firewall.Sync(want.table)
	if unknown == nil && err == nil && len(changes) == 0 {
		d.settled = now
	}
	return d.note("the firewall")(changes, err)
}

func (d *daemon) syncChains(states ...iptables.State) error {
	chains := slices.Concat(states...)
	d.chains.Store(&chains)
	return d.note("iptables")(d.iptables.Sync(chains))
}

// withoutTable removes the table of an earlier time.
func (d *daemon) withoutTable() error {
	err := d.note("the firewall")(d.firewall.Sync(firewall.State{}))
	if errors.Is(err, firewall.ErrUnsupported) {
		return nil // then there is none
	}
	return err
}

// fingerprint stands for the state of the part of iptables that tells nobody of
// its changes.
func (d *daemon) fingerprint() (uint64, error) {
	chains := d.chains.Load()
	if chains == nil {
		return 0, nil
	}
	f, err := d.iptables.Fingerprint(*chains)
	return f.Legacy, err
}
