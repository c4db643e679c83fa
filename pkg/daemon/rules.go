package daemon

import (
	"errors"
	"reflect"

	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/iptables"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

// rules are what netfilter should have.
type rules struct {
	table   firewall.State // of nftables
	forward iptables.State
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
	*l = lastRules{in: in, rules: r, known: err == nil}
	return r, err
}

func rulesOf(in input) (r rules, err error) {
	if r.table, err = firewall.Desired(firewall.Config{
		Own: in.own.Subnets, Network: podSubnets(in.nodes), NoMasqueradeTo: in.config.NoMasqueradeTo,
		Masquerade: in.config.Masquerade, Bridge: in.config.Bridge,
	}); err != nil {
		return rules{}, err
	}
	if in.config.IPTablesForward {
		r.forward, err = iptables.Desired(iptables.Config{Own: in.own.Subnets, Bridge: in.config.Bridge, Tunnel: in.config.VXLAN.Device})
	}
	return r, err
}

func (d *daemon) syncRules(want rules) error {
	return errors.Join(
		d.note("the firewall")(d.firewall.Sync(want.table)),
		d.note("iptables")(d.iptables.Sync(want.forward)))
}
