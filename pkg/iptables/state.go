package iptables

import (
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
)

// Where our rules are: in a chain of ours in table filter, to which the built-in
// chain FORWARD jumps.
const (
	filterTable  = "filter"
	forwardChain = "FORWARD"
	ourChain     = "OVERLAY-CNI-FWD"
)

// Config is what the rules follow from.
type Config struct {
	// Own are this node's pod subnets. Only their families get rules.
	Own []netip.Prefix
	// Bridge is the name of the interface behind which the pods are.
	Bridge string
	// Tunnel is the name of the interface behind which the other nodes' pods are.
	Tunnel string
}

// State is the rules of our chain, in their order. A family that has none has
// neither the chain nor a jump to it.
type State map[family.Family][]Rule

// Rule accepts packets. Empty conditions hold for all of them.
type Rule struct {
	// In and Out are names of interfaces.
	In, Out string
	// Replies limits the rule to packets of connections that something else let
	// through before, and to what belongs to these connections (RELATED).
	Replies bool
}

// String returns the rule as iptables -S lists it, without the chain's name.
func (r Rule) String() string {
	var b strings.Builder
	if r.In != "" {
		b.WriteString("-i " + r.In + " ")
	}
	if r.Out != "" {
		b.WriteString("-o " + r.Out + " ")
	}
	if r.Replies {
		b.WriteString("-m conntrack --ctstate RELATED,ESTABLISHED ")
	}
	return b.String() + "-j ACCEPT"
}

func texts(rules []Rule) []string {
	all := make([]string, len(rules))
	for i, r := range rules {
		all[i] = r.String()
	}
	return all
}

// Desired returns the rules that accept pods' traffic.
//
// The rules go by interface, because all that pods send and get passes the
// bridge. Rules by subnet would change with every node, and accept nothing more.
// The tunnel counts where the host forwards for others: a Service's port on this
// host that leads to another host's pod. Of what the tunnel brings only replies
// are accepted; packets for pods leave through the bridge.
func Desired(c Config) (State, error) {
	for _, name := range []string{c.Bridge, c.Tunnel} {
		if err := checkName(name); err != nil {
			return nil, err
		}
	}
	s := State{}
	for _, f := range family.All() {
		if len(f.Filter(c.Own)) > 0 {
			s[f] = []Rule{{In: c.Bridge}, {Out: c.Bridge}, {Out: c.Tunnel}, {In: c.Tunnel, Replies: true}}
		}
	}
	return s, nil
}

// checkName refuses names that iptables takes for something else than one
// interface: a + at the end, for one, stands for any end.
func checkName(name string) error {
	if name == "" || len(name) >= unix.IFNAMSIZ || strings.ContainsAny(name, " \t\n\"'\\!+") {
		return fmt.Errorf("iptables: interface name %q: must have 1 to %d bytes, without blanks, quotes, backslashes, ! and +",
			name, unix.IFNAMSIZ-1)
	}
	return nil
}
