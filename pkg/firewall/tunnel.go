package firewall

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/nft"
)

// Tunnel describes the tunnel's own packets.
//
// Whoever can send such a packet to a host reaches every pod and the host itself,
// with any source address. So packets of our port and VNI are taken from peers only,
// and pods can't send any to a host. Other programs' VXLANs on the same port have
// another VNI and are left alone.
type Tunnel struct {
	Device string
	VNI    uint32 // 24 bits
	Port   uint16 // UDP
	// Peers are the addresses from which other hosts may send.
	Peers []netip.Addr
	// AnySource takes packets from any address that is no pod's, where the network
	// translates addresses. Then Peers is of no account.
	AnySource bool
	// Tracked leaves the tunnel's packets to connection tracking.
	Tracked bool
}

// Names of chains that rules jump to. A packet of another port pays for one
// comparison and never gets there.
const (
	arriving = "tunnel-arriving"
	passing  = "tunnel-passing"
)

// Names of the chains that exempt the tunnel from connection tracking.
const (
	untrackedIn  = "untracked-in"
	untrackedOut = "untracked-out"
)

// addTunnel adds the guards of the tunnel. They are in the hooks input and forward,
// not in prerouting: there the packet's destination is the final one, whatever a
// Service or a host port did to it, and its fragments have been put together.
func addTunnel(t *nft.Table, c Config) {
	addPeers(t, c.Tunnel)
	t.Chains = append(t.Chains,
		nft.Chain{Name: arriving, Rules: arrivingRules(c)},
		nft.Chain{Name: passing, Rules: passingRules(c)},
		filter("input", unix.NF_INET_LOCAL_IN, nft.PriorityFilter, c.Tunnel.jump(arriving)),
		filter("forward", unix.NF_INET_FORWARD, nft.PriorityFilter, c.Tunnel.jump(passing)))
	if c.Tunnel.Tracked {
		return
	}
	const why = "connection tracking would have an entry for each flow in the tunnel"
	t.Chains = append(t.Chains,
		filter(untrackedIn, unix.NF_INET_PRE_ROUTING, nft.PriorityRaw,
			nft.NewRule(why, c.Tunnel.is(), nft.IsLocal(), nft.NoTrack())),
		filter(untrackedOut, unix.NF_INET_LOCAL_OUT, nft.PriorityRaw,
			nft.NewRule(why, c.Tunnel.is(), nft.NoTrack())))
}

// tracked returns the table without the exemption from connection tracking, and
// whether it had one.
func tracked(t *nft.Table) (*nft.Table, bool) {
	if t == nil {
		return nil, false
	}
	less := *t
	less.Chains = slices.DeleteFunc(slices.Clone(t.Chains), func(c nft.Chain) bool { return c.Name == untrackedIn || c.Name == untrackedOut })
	return &less, len(less.Chains) < len(t.Chains)
}

// addPeers adds the sets of the peers' addresses.
func addPeers(t *nft.Table, tunnel Tunnel) {
	for _, f := range family.All() {
		t.Sets = append(t.Sets, nft.NewSet(setName("peers", f), nft.Addr(f)))
	}
	t.Elements = slices.Grow(t.Elements, len(tunnel.Peers))
	seen := make(map[netip.Addr]bool, len(tunnel.Peers)) // a set has each element once
	for _, a := range tunnel.Peers {
		if seen[a] {
			continue
		}
		seen[a] = true
		t.Elements = append(t.Elements, nft.Element{Set: setName("peers", family.Of(a)), Key: string(a.AsSlice())})
	}
}

// isPort passes packets to the tunnel's port.
func (t Tunnel) isPort() []nft.Expr {
	return slices.Concat(nft.L4Proto().Is(unix.IPPROTO_UDP), nft.DestinationPort().Is(binary.BigEndian.AppendUint16(nil, t.Port)...))
}

// vni is the VNI as packets have it.
func (t Tunnel) vni() []byte { return binary.BigEndian.AppendUint32(nil, t.VNI)[1:] }

// is passes packets of the tunnel.
func (t Tunnel) is() []nft.Expr { return slices.Concat(t.isPort(), nft.VXLANNetwork().Is(t.vni()...)) }

func (t Tunnel) jump(chain string) nft.Rule {
	return nft.NewRule("packets to the tunnel's port", t.isPort(), nft.Jump(chain).Exprs())
}

// foreignRule accepts other VXLANs' packets. A packet that is too short to tell, such
// as a first fragment, goes on to the rules that drop.
func (t Tunnel) foreignRule() nft.Rule {
	return nft.NewRule("another VXLAN", nft.VXLANNetwork().IsNot(t.vni()...), nft.Accept.Exprs())
}

// fromPods drops what comes from pods of this host and from those of other hosts.
func (c Config) fromPods() []nft.Rule {
	var rules []nft.Rule
	for _, device := range []string{c.Bridge, c.Tunnel.Device} {
		rules = append(rules, nft.NewRule("pods send no packets of the tunnel", nft.InName().Is(nft.PadName(device)...), nft.Drop.Exprs()))
	}
	return rules
}

// arrivingRules are for packets to this host. The sources' rules are needed beside
// those of interfaces: with direct routing, other hosts' pods come by the underlay.
func arrivingRules(c Config) []nft.Rule {
	rules := append([]nft.Rule{c.Tunnel.foreignRule()}, c.fromPods()...)
	for _, f := range family.All() {
		source := nft.Source(f, f.Bytes())
		if c.Tunnel.AnySource {
			rules = append(rules, nft.NewRule("pods send no packets of the tunnel",
				nft.IsFamily(f), source.In(setName("network", f)), nft.Drop.Exprs()))
		} else {
			rules = append(rules, nft.NewRule("the tunnel's packets come from other hosts of the registry",
				nft.IsFamily(f), source.NotIn(setName("peers", f)), nft.Drop.Exprs()))
		}
	}
	return rules
}

// passingRules are for packets that pods send through this host. They may send to
// pods, of which some have a VXLAN of their own; a gateway's or VTEP's address is
// guarded by its own host. Every other destination may be a host: the registry does
// not know all addresses that hosts have.
func passingRules(c Config) []nft.Rule {
	rules := []nft.Rule{c.Tunnel.foreignRule()}
	for _, f := range family.All() {
		rules = append(rules, nft.NewRule("a VXLAN between pods", nft.IsFamily(f),
			nft.Destination(f, f.Bytes()).In(setName("network", f)), nft.Accept.Exprs()))
	}
	return append(rules, c.fromPods()...)
}
