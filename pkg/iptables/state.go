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

// Config is the input of Desired.
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

// Rule accepts packets. An empty condition matches every packet.
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
// The rules match interfaces, because all packets from and to pods pass the bridge.
// Rules for subnets would change with every node and accept no more packets. The rules
// for the tunnel are for traffic between an outside client and another host's pod,
// through a Service's port on this host. From the tunnel the rules accept only replies
// of such connections; packets for pods of this host leave through the bridge.
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

// checkName refuses names that iptables does not read as one interface. For example, a
// + at the end matches all interfaces with the prefix.
func checkName(name string) error {
	if name == "" || len(name) >= unix.IFNAMSIZ || strings.ContainsAny(name, " \t\n\"'\\!+") {
		return fmt.Errorf("iptables: interface name %q: must have 1 to %d bytes, without blanks, quotes, backslashes, ! and +",
			name, unix.IFNAMSIZ-1)
	}
	return nil
}
