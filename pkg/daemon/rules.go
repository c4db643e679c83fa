package daemon

import (
	"errors"
	"slices"

	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/iptables"
)

// rules are what netfilter should have, whichever way it is said.
type rules struct {
	mode  config.Firewall
	table firewall.State // of nftables
	// instead is the same for iptables.
	instead iptables.State
	// forward is in iptables whatever masquerades.
	forward iptables.State
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
	table := d.note("the firewall")(d.firewall.Sync(want.table))
	if want.mode == config.FirewallAuto && errors.Is(table, firewall.ErrUnsupported) {
		return d.syncChains(want.forward, want.instead)
	}
	return errors.Join(table, d.syncChains(want.forward))
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
