package veth

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/nl"
	"github.com/overlay-cni/overlay-cni/internal/rtnl"
	"github.com/overlay-cni/overlay-cni/internal/sysctl"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
)

var (
	// ErrIfNameTaken is for an interface name that the pod already uses.
	ErrIfNameTaken = errors.New("the pod already has an interface of that name")
	// ErrPortTaken is for a name of the host's end that another link has.
	ErrPortTaken = errors.New("the host already has an interface of that name")
	// ErrBridgeFull is for a bridge on which the kernel has no port left.
	ErrBridgeFull = errors.New("bridge is full")
)

// maxPorts is how many ports a Linux bridge has room for (BR_MAX_PORTS in
// net/bridge/br_private.h, of which number 0 isn't used).
const maxPorts = 1023

// Kernel is the network namespace of the bridge. It is for one goroutine at a
// time.
type Kernel struct {
	bridge *bridge.Kernel
	conn   *rtnl.Conn
}

// On returns a Kernel for the namespace of b. It uses b's socket, so the caller
// closes b and nothing else.
func On(b *bridge.Kernel) *Kernel { return &Kernel{bridge: b, conn: b.Conn()} }

// Port is a pod's connection to the bridge.
type Port struct {
	HostName string // the host's end of the veth pair
	Alias    string // of the host's end, for people
	IfName   string // the pod's end
	HostMAC  net.HardwareAddr
	MAC      net.HardwareAddr // the pod's end
	MTU      int
	// Addresses are the pod's, at most one a family.
	Addresses []Address
	Routes    []Route
}

// Address is one of a pod's addresses, with the gateway for its family.
type Address struct {
	Addr    netip.Addr
	Gateway netip.Addr // an address of the bridge
}

// Route is a destination that a pod reaches by a next hop.
type Route struct {
	Dst netip.Prefix
	Via netip.Addr
}

// Add makes the veth pair between the bridge with that interface index and the
// pod's network namespace, with addresses and routes. After an error a part may be
// left, which bridge.Kernel.Remove removes.
//
// A default route that the pod already has from another network stays. Instead
// of a second one, the pod gets a route to its own subnet. Add returns the
// routes that it made.
//
// Add exchanges messages with the kernel four times: one batch for the pair and
// its port; the visit to the pod's namespace, for sysctls and a socket; the index
// of the pod's end; one batch for addresses and routes. At last it waits until the
// port forwards.
func (k *Kernel) Add(netns *os.File, index int, s bridge.Spec, p Port) ([]Route, error) {
	if err := k.addPair(netns, index, s, p); err != nil {
		return nil, k.explain(err, s.Name, p)
	}
	// Sysctls are set before the pod's end is up. Otherwise addresses and routes
	// from a router advertisement in between would stay. Only values that differ
	// are written, because every write of disable_ipv6 waits for the RTNL lock
	// (addrconf_disable_ipv6 in net/ipv6/addrconf.c).
	pod, err := k.conn.OpenIn(netns, func() error { return sysctl.SyncKnown(p.sysctls()) })
	if err != nil {
		return nil, err
	}
	defer func() { _ = pod.Close() }()
	inPod, err := pod.Index(p.IfName)
	if err != nil {
		return nil, err
	}
	if err := p.configure(pod, inPod, s); err != nil {
		return nil, err
	}
	return p.Routes, k.settle(p.HostName, s.Name)
}

// settle waits until the port forwards, so that a pod's first packet is not lost,
// nor the first one to it. The first port gives the bridge its carrier. Without a
// carrier the kernel forgets the bridge's neighbours, with the packets that wait for
// them.
func (k *Kernel) settle(port, bridge string) error {
	return errors.Join(k.conn.SettleCarrier(port), k.conn.SettleCarrier(bridge))
}

// sysctls are those of the pod's end. The pod's addresses and routes are known,
// so router advertisements are ignored. Addresses are given once, so the kernel
// needn't look for duplicates, which would delay the link-local address by a
// second. Some runtimes disable IPv6 in each namespace, not knowing which network
// a pod will get.
func (p Port) sysctls() []sysctl.Parameter {
	want := []sysctl.Parameter{sysctl.IPv6(p.IfName, sysctl.AcceptRA, "0")}
	if slices.ContainsFunc(p.Addresses, func(a Address) bool { return a.Addr.Is6() }) {
		want = append(want, sysctl.IPv6(p.IfName, sysctl.AcceptDAD, "0"), sysctl.IPv6(p.IfName, sysctl.DisableIPv6, "0"))
	}
	return want
}

// configure sets the pod's end up, with addresses and routes. Afterwards p.Routes
// are the routes that were made.
func (p *Port) configure(pod *rtnl.Conn, index int, s bridge.Spec) error {
	var b rtnl.Batch
	b.SetUp(index)
	for _, a := range p.Addresses {
		b.AddAddr(index, netip.PrefixFrom(a.Addr, a.Addr.BitLen()))
	}
	p.reachGateways(&b, index)
	routes := make([]*nl.Request, len(p.Routes))
	for i, r := range p.Routes {
		routes[i] = b.AddRoute(r.inPod(index))
		if r.Dst.Bits() == 0 {
			routes[i].Tolerate(unix.EEXIST) // of another network
		}
	}
	if err := pod.Run(&b); err != nil {
		return err
	}
	var instead rtnl.Batch
	p.Routes = slices.Clone(p.Routes)
	for i, r := range p.Routes {
		if !routes[i].Done() {
			p.Routes[i] = p.toSubnet(r, s)
			instead.ReplaceRoute(p.Routes[i].inPod(index))
		}
	}
	return pod.Run(&instead)
}

// reachGateways adds a route on the link to each gateway. The pod's own routes don't
// need it (see inPod), but those of other programs do: a VPN client in the pod and
// the plugin sbr add routes via the gateway, and the kernel refuses a next hop that
// no route leads to. Another network of the pod may have the same gateway.
func (p *Port) reachGateways(b *rtnl.Batch, index int) {
	for _, a := range p.Addresses {
		if a.Gateway.IsValid() {
			gateway := netip.PrefixFrom(a.Gateway, a.Gateway.BitLen())
			b.AddRoute(rtnl.Route{Dst: gateway, Index: index}).Tolerate(unix.EEXIST)
		}
	}
}

// toSubnet returns the route to the pod's own subnet, for a pod that keeps
// another network's default route. That route may lead to another router, but
// the subnet is behind the bridge.
func (p *Port) toSubnet(r Route, s bridge.Spec) Route {
	for _, a := range p.Addresses {
		if a.Addr.Is4() == r.Dst.Addr().Is4() {
			return Route{Dst: s.SubnetOf(a.Gateway), Via: a.Gateway}
		}
	}
	return Route{Dst: netip.PrefixFrom(r.Via, r.Via.BitLen()), Via: r.Via} // no address of that family
}

// inPod returns the route as the kernel gets it. With a /32 address the kernel
// doesn't know that the gateway is on the link, so the route says so (Onlink).
func (r Route) inPod(index int) rtnl.Route {
	return rtnl.Route{Dst: r.Dst, Via: r.Via, Index: index, Onlink: true}
}

func (k *Kernel) addPair(netns *os.File, index int, s bridge.Spec, p Port) error {
	var b rtnl.Batch
	// Adding an address again costs less than asking whether the bridge has it.
	var gateways []*nl.Request
	for _, g := range s.Gateways {
		gateways = append(gateways, b.AddAddr(index, g).Tolerate(unix.EEXIST))
	}
	b.AddVeth(rtnl.Veth{
		Name: p.HostName, MAC: p.HostMAC, Master: index, MTU: p.MTU,
		Peer: rtnl.VethPeer{Name: p.IfName, MAC: p.MAC, Netns: int(netns.Fd())},
	})
	filtered := callsIptables(s)
	b.SetPort(rtnl.Port{Name: p.HostName, Alias: p.Alias, Isolated: !filtered, Hairpin: filtered})
	// An earlier pod with the address may have had another MAC address.
	for _, a := range p.Addresses {
		b.DelNeighbor(rtnl.Neighbor{Index: index, IP: a.Addr}).Tolerate(unix.ENOENT)
	}
	// Without IPv6 on this host, or with an MTU below 1280, the link gets no
	// link-local address anyway.
	b.SetNoAutoAddress(p.HostName).Tolerate(unix.EAFNOSUPPORT)
	b.SetUpByName(p.HostName)
	err := k.conn.Run(&b)
	if err == nil && slices.ContainsFunc(gateways, (*nl.Request).Done) {
		_, err = k.bridge.Complete(s) // a new gateway may need other settings
	}
	return err
}

// callsIptables tells whether the bridge passes its packets through the host's
// firewall (br_netfilter), as Kubernetes once required. If the firewall then
// changes a packet's destination to a pod of the same bridge (for a Service or a
// host port), the packet is not routed: the bridge itself sends it to that pod's
// port (bridged_dnat in net/bridge/br_netfilter_hooks.c). So ports must not be
// isolated, and a pod must be able to reach itself.
func callsIptables(s bridge.Spec) bool {
	sysctls := map[family.Family]string{family.IPv4: "net/bridge/bridge-nf-call-iptables", family.IPv6: "net/bridge/bridge-nf-call-ip6tables"}
	for _, g := range s.Gateways {
		if v, err := sysctl.Get(sysctls[family.Of(g.Addr())]); err == nil && v != "0" {
			return true
		}
	}
	return false
}

// explain says what an error of addPair is about: the kernel reports "file exists"
// for the names of both ends.
func (k *Kernel) explain(err error, bridgeName string, p Port) error {
	switch {
	case errors.Is(err, unix.EXFULL):
		return fmt.Errorf("%w: %s has the %d ports that the kernel allows; no more pods fit on this node", ErrBridgeFull, bridgeName, maxPorts)
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w: where the kernel lacks veth pairs, load the module veth", err)
	case !errors.Is(err, unix.EEXIST):
		return err
	}
	if _, look := k.conn.Link(p.HostName); look == nil {
		return fmt.Errorf("%w: %s: remove it with ip link del %s", ErrPortTaken, p.HostName, p.HostName)
	}
	return fmt.Errorf("%w: %s", ErrIfNameTaken, p.IfName)
}

// InNetns tells whether netns is the namespace of the bridge.
func (k *Kernel) InNetns(netns *os.File) (bool, error) { return k.conn.InNetns(netns) }

// InPod tells whether the network namespace at path has an interface of that name.
// A namespace that is gone has none.
func (k *Kernel) InPod(path, ifName string) (bool, error) {
	netns, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer netns.Close()
	pod, err := k.conn.OpenIn(netns, func() error { return nil })
	if errors.Is(err, unix.EINVAL) {
		return false, nil // a plain file: the namespace that was mounted on it is gone
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = pod.Close() }()
	_, err = pod.Index(ifName)
	if errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	return err == nil, err
}

// AllAddresses returns the destination of a default route for the family of an
// address.
func AllAddresses(like netip.Addr) netip.Prefix {
	if like.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}
