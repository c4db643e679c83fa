package bridge

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
)

// ErrIfNameTaken is for an interface name that the pod already uses.
var ErrIfNameTaken = errors.New("the pod already has an interface of that name")

// ErrPortTaken is for a name of the host's end that a link has.
var ErrPortTaken = errors.New("the host already has an interface of that name")

// ErrBridgeFull is for a bridge on which the kernel has no port left.
var ErrBridgeFull = errors.New("bridge is full")

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

// Address is one of a pod's addresses and what it sends everything to.
type Address struct {
	Addr    netip.Addr
	Gateway netip.Addr // an address of the bridge
}

// Route is a destination that a pod reaches by a next hop.
type Route struct {
	Dst netip.Prefix
	Via netip.Addr
}

// Attach makes the veth pair between the bridge with that interface index and
// the pod's network namespace, with addresses and routes. When it returns an
// error something may be left: Detach removes it.
//
// A default route that the pod has already, by another network, stays: the pod
// gets one to the own subnet instead. The routes that were made are returned.
//
// It is four exchanges with the kernel: the pair and its port in one message
// batch, the switches of the pod's end and a socket in one visit to the pod's
// namespace, the index that the pod's end got, and addresses and routes in
// another batch.
func (k *Kernel) Attach(netns *os.File, index int, s Spec, p Port) ([]Route, error) {
	if err := k.addPair(netns, index, s, p); err != nil {
		return nil, k.explain(err, s.Name, p)
	}
	// Before the pod's end is up: a router that is only heard can't be unheard.
	pod, err := k.visit(netns, p.switches())
	if err != nil {
		return nil, err
	}
	defer func() { _ = pod.Close() }()
	inPod, err := pod.Index(p.IfName)
	if err != nil {
		return nil, err
	}
	err = p.configure(pod, inPod, s)
	return p.Routes, err
}

// visit sets sysctls in a pod's namespace and opens a socket there. It writes
// only what differs: to write disable_ipv6, even the value it has, waits for the
// lock of all network configuration (addrconf_disable_ipv6 in
// net/ipv6/addrconf.c).
func (k *Kernel) visit(netns *os.File, sysctls []sysctl.Parameter) (*rtnl.Conn, error) {
	return k.conn.OpenIn(netns, func() error { return ensureSwitches(sysctls) })
}

// configure sets the pod's end up, with addresses and routes. It replaces
// p.Routes by those that were made.
func (p *Port) configure(pod *rtnl.Conn, index int, s Spec) error {
	var b rtnl.Batch
	b.SetUp(index)
	for _, a := range p.Addresses {
		b.AddAddr(index, netip.PrefixFrom(a.Addr, a.Addr.BitLen()))
	}
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

// toSubnet is the route to the own subnet, in the place of a default route. That
// may go by another router, but the subnet is behind the bridge.
func (p *Port) toSubnet(r Route, s Spec) Route {
	for _, a := range p.Addresses {
		if a.Addr.Is4() == r.Dst.Addr().Is4() {
			return Route{Dst: s.subnetOf(a.Gateway), Via: a.Gateway}
		}
	}
	return Route{Dst: netip.PrefixFrom(r.Via, r.Via.BitLen()), Via: r.Via} // no address of that family
}

// inPod is the route as the kernel gets it. The gateway is no neighbour by the
// pod's /32 address, so the route has to say that it is on the link.
func (r Route) inPod(index int) rtnl.Route {
	return rtnl.Route{Dst: r.Dst, Via: r.Via, Index: index, Onlink: true}
}

// subnetOf is the subnet of a gateway.
func (s Spec) subnetOf(gateway netip.Addr) netip.Prefix {
	for _, g := range s.Gateways {
		if g.Addr() == gateway {
			return g.Masked()
		}
	}
	return netip.PrefixFrom(gateway, gateway.BitLen())
}

func (k *Kernel) addPair(netns *os.File, index int, s Spec, p Port) error {
	var b rtnl.Batch
	// The addresses go along, because adding one that is there costs less than
	// asking whether it is.
	var gateways []*nl.Request
	for _, g := range s.Gateways {
		gateways = append(gateways, b.AddAddr(index, g).Tolerate(unix.EEXIST))
	}
	b.AddVeth(rtnl.Veth{
		Name: p.HostName, MAC: p.HostMAC, Master: index, MTU: p.MTU,
		Peer: rtnl.VethPeer{Name: p.IfName, MAC: p.MAC, Netns: int(netns.Fd())},
	})
	switched := switchesServices(s)
	b.SetPort(rtnl.Port{Name: p.HostName, Alias: p.Alias, Isolated: !switched, Hairpin: switched})
	// Without IPv6 on this host, or for this MTU (below 1280), there is no such
	// address.
	b.SetNoAutoAddress(p.HostName).Tolerate(unix.EAFNOSUPPORT)
	b.SetUpByName(p.HostName)
	err := k.conn.Run(&b)
	if err == nil && slices.ContainsFunc(gateways, (*nl.Request).Done) {
		_, _, err = k.sync(s.Want(), addOnly) // what goes with a new gateway
	}
	return err
}

// switchesServices tells whether br_netfilter has the bridge pass its packets
// through the host's firewall, as Kubernetes once required. Then a packet whose
// destination is changed there to a pod of the same bridge (a Service's
// address, a host port) is not routed any more: the bridge itself sends it on
// to that pod's port (bridged_dnat in net/bridge/br_netfilter_hooks.c). So
// ports must not be isolated, and a pod must be able to reach itself.
func switchesServices(s Spec) bool {
	switches := map[family.Family]string{family.IPv4: "net/bridge/bridge-nf-call-iptables", family.IPv6: "net/bridge/bridge-nf-call-ip6tables"}
	for _, g := range s.Gateways {
		if v, err := sysctl.Get(switches[family.Of(g.Addr())]); err == nil && v != "0" {
			return true
		}
	}
	return false
}

// explain finds out what an error of addPair is about: the kernel says "file
// exists" for both ends' names.
func (k *Kernel) explain(err error, bridge string, p Port) error {
	switch {
	case errors.Is(err, unix.EXFULL):
		return fmt.Errorf("%w: %s has the %d ports that the kernel allows; no more pods fit on this node", ErrBridgeFull, bridge, maxPorts)
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

// Detach removes devices by their names: the host's end of a veth pair, with
// which its peer goes, and others of the port. Those that are not there are
// fine, and are not asked to go: with each such message the kernel would wait
// its turn among all others that remove devices, some milliseconds each.
func (k *Kernel) Detach(names ...string) error {
	var b rtnl.Batch
	for _, name := range names {
		if _, err := k.conn.Index(name); !errors.Is(err, unix.ENODEV) {
			b.DelLink(name).Tolerate(unix.ENODEV)
		}
	}
	return k.conn.Run(&b)
}

// Ports are the names of the bridge's ports; of none if there is no bridge.
func (k *Kernel) Ports(bridge string) ([]string, error) {
	link, err := k.find(bridge)
	if err != nil || link.Index == 0 {
		return nil, err
	}
	h, err := k.lib()
	if err != nil {
		return nil, err
	}
	links, err := retryDump(h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list ports of %s: %w", bridge, err)
	}
	var names []string
	for _, l := range links {
		if l.Attrs().MasterIndex == link.Index {
			names = append(names, l.Attrs().Name)
		}
	}
	return names, nil
}

// InNetns tells whether netns is the namespace of the bridge.
func (k *Kernel) InNetns(netns *os.File) (bool, error) { return k.conn.InNetns(netns) }

// Exists tells whether there is a link of that name.
func (k *Kernel) Exists(name string) bool {
	_, err := k.conn.Index(name)
	return err == nil
}

// Gone tells whether there is no link of that name. That it can't be told is an
// error, and no reason to free anything.
func (k *Kernel) Gone(name string) (bool, error) {
	_, err := k.conn.Index(name)
	if errors.Is(err, unix.ENODEV) {
		return true, nil
	}
	return false, err
}

// InPod tells whether a network namespace has an interface of that name; it has
// none if there is no such namespace.
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
		return false, nil // a file that is left where a namespace was mounted
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
