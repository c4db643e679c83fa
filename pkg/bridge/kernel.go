package bridge

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/rtnl"
	"github.com/overlay-cni/overlay-cni/internal/sysctl"
)

// ErrUnmanaged is for a device that has the bridge's name and is no bridge.
var ErrUnmanaged = errors.New("the name belongs to another device")

// Kernel is the bridge's network namespace. It is for one goroutine at a time.
type Kernel struct {
	conn   *rtnl.Conn
	handle *netlink.Handle // opened when first needed, see lib
}

// Open opens the network namespace of the calling thread.
func Open() (*Kernel, error) {
	conn, err := rtnl.Open()
	if err != nil {
		return nil, err
	}
	return &Kernel{conn: conn}, nil
}

// Close closes the sockets.
func (k *Kernel) Close() {
	_ = k.conn.Close()
	if k.handle != nil {
		k.handle.Close()
	}
}

func (k *Kernel) lib() (*netlink.Handle, error) {
	if k.handle == nil {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return nil, fmt.Errorf("open a route netlink socket: %w", err)
		}
		k.handle = h
	}
	return k.handle, nil
}

// Conn returns the route netlink socket. An ADD shares it between the bridge and
// the pod's port, because opening another one costs time.
func (k *Kernel) Conn() *rtnl.Conn { return k.conn }

// Add makes the bridge if there is none, and adds what the bridge lacks. It
// changes and removes nothing: other networks may share the bridge, and their
// pods have the bridge's MAC address in their ARP caches. It returns the
// interface index.
//
// For nearly every pod the bridge is complete, so Add checks as little as it
// can. No other device has the derived MAC address by chance, so a device that
// has it is the bridge. A bridge that another network made has another MAC
// address; then Add also checks the device's kind. Add doesn't check addresses:
// veth.Kernel.Add adds them along with the port.
func (k *Kernel) Add(s Spec) (int, error) {
	want := s.Want()
	if link, err := k.conn.LinkByIoctl(s.Name); err == nil && len(planLink(want, link)) == 0 {
		return link.Index, nil
	}
	link, err := k.find(s.Name)
	if err != nil {
		return 0, err
	}
	if link.Index != 0 && len(additions(planLink(want, link), stateOf(link))) == 0 {
		return link.Index, nil
	}
	return k.Complete(s)
}

// Complete is Add with a check of everything, addresses and sysctls included.
func (k *Kernel) Complete(s Spec) (int, error) {
	index, _, err := k.sync(s.Want(), addOnly)
	return index, err
}

// Remove removes links by their names: the bridge, or the host's end of a veth
// pair, whose peer goes along. Missing links are fine. Remove sends no message
// for a missing link, because the message would wait some milliseconds for every
// other process that removes a device.
func (k *Kernel) Remove(links ...string) error {
	var b rtnl.Batch
	k.remove(&b, links)
	return k.conn.Run(&b)
}

func (k *Kernel) remove(b *rtnl.Batch, links []string) {
	for _, name := range links {
		if there, err := k.Exists(name); there || err != nil {
			b.DelLink(name).Tolerate(unix.ENODEV)
		}
	}
}

// RemovePod is Remove for a pod's devices. Afterwards it deletes the neighbour entries
// of the pod's addresses from the bridge. Otherwise the host would go on sending to the
// pod's MAC address, which no port has any more: the bridge would send these packets to
// all other pods.
func (k *Kernel) RemovePod(bridge string, addrs []netip.Addr, links ...string) error {
	var b rtnl.Batch
	k.remove(&b, links)
	if index, err := k.conn.Index(bridge); err == nil {
		for _, a := range addrs {
			b.DelNeighbor(rtnl.Neighbor{Index: index, IP: a}).Tolerate(unix.ENOENT, unix.ENODEV)
		}
	}
	return k.conn.Run(&b)
}

// Exists tells whether there is a link of that name.
func (k *Kernel) Exists(name string) (bool, error) {
	_, err := k.conn.Index(name)
	if errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	return err == nil, err
}

// MAC returns the MAC address of a bridge, nil if there is no such link.
func (k *Kernel) MAC(bridge string) net.HardwareAddr {
	link, err := k.conn.LinkByIoctl(bridge)
	if err != nil {
		return nil
	}
	return link.MAC
}

// Ports lists the names of the bridge's ports. A bridge that is missing has none.
func (k *Kernel) Ports(bridge string) ([]string, error) {
	link, err := k.find(bridge)
	if err != nil || link.Index == 0 {
		return nil, err
	}
	var names []string
	err = k.conn.EachPort(link.Index, func(p rtnl.PortEntry) { names = append(names, p.Name) })
	return names, err
}

// Inspect returns what the bridge lacks, a phrase each, for CHECK.
func (k *Kernel) Inspect(s Spec) ([]string, error) {
	_, have, err := k.read(s.Want())
	if err != nil {
		return nil, err
	}
	if have == nil {
		return []string{fmt.Sprintf("bridge %s is gone", s.Name)}, nil
	}
	var diffs []string
	for _, o := range hindrances(plan(s.Want(), have), *have) {
		diffs = append(diffs, fmt.Sprintf("bridge %s needs: %s", s.Name, o))
	}
	return diffs, nil
}

// planLink lists the changes that turn the link itself into want.
func planLink(want Bridge, link rtnl.Link) []op {
	have := stateOf(link)
	have.Addresses, have.Forwards, have.Sysctls = want.Addresses, want.Forwards, want.Sysctls
	return plan(want, &have)
}

// Sync makes the bridge exactly as specified and returns what it changed.
func (k *Kernel) Sync(s Spec) ([]string, error) {
	_, changes, err := k.sync(s.Want(), exact)
	return changes, err
}

// additions returns the operations that only add: they neither alter nor delete
// a setting that somebody may have made.
func additions(ops []op, have Bridge) []op {
	return slices.DeleteFunc(ops, func(o op) bool {
		return o.verb == release || o.verb == setResolve || !hinders(o, have)
	})
}

// hindrances returns the operations without which pods of any network on the bridge
// lose their packets.
func hindrances(ops []op, have Bridge) []op {
	return slices.DeleteFunc(ops, func(o op) bool { return !hinders(o, have) })
}

func hinders(o op, have Bridge) bool {
	switch o.verb {
	case delAddress, setMAC, setOption:
		return false
	case setMTU:
		return have.unfinished()
	}
	return true
}

// policy says what to do with settings that differ from the desired state.
type policy int

const (
	exact policy = iota
	addOnly
)

// attempts bounds how often sync reads again after another process changed the
// bridge at the same time: a host's first two pods may both make the bridge.
const attempts = 5

func (k *Kernel) sync(want Bridge, p policy) (int, []string, error) {
	var changes []string
	for range attempts {
		index, have, err := k.read(want)
		if err != nil {
			return 0, changes, err
		}
		ops := plan(want, have)
		if p == addOnly && have != nil {
			ops = additions(ops, *have)
		}
		if len(ops) == 0 {
			return index, changes, nil
		}
		for _, o := range ops {
			err := k.apply(o)
			if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENODEV) {
				break // another process was faster: read again
			}
			if err != nil {
				return 0, changes, fmt.Errorf("%s: %w", o, err)
			}
			changes = append(changes, o.String())
		}
	}
	return 0, changes, fmt.Errorf("bridge %s does not keep its settings, so another program must be changing it", want.Name)
}

// read returns the bridge, with the sysctls that want has, or nil if there is none.
func (k *Kernel) read(want Bridge) (int, *Bridge, error) {
	bridge, err := k.findBridge(want.Name)
	link := bridge.Link
	if err != nil || link.Index == 0 {
		return 0, nil, err
	}
	b := stateOf(link)
	b.Altered = altered(bridge)
	b.Sysctls = readSysctls(want.Sysctls)
	err = k.conn.EachAddr(link.Index, func(a rtnl.AddrEntry) {
		// The kernel adds a link-local address by itself, which stays.
		if !a.Prefix.Addr().IsLinkLocalUnicast() || a.Prefix == linkLocal {
			b.Addresses = append(b.Addresses, a.Prefix)
		}
	})
	if err != nil {
		return 0, nil, fmt.Errorf("list addresses of %s: %w", want.Name, err)
	}
	for _, f := range family.All() {
		b.Forwards[f] = forwards(f)
	}
	return link.Index, &b, nil
}

// find looks the bridge up. If there is none, the index is 0.
func (k *Kernel) find(name string) (rtnl.Link, error) {
	bridge, err := k.findBridge(name)
	return bridge.Link, err
}

func (k *Kernel) findBridge(name string) (rtnl.BridgeLink, error) {
	link, err := k.conn.Bridge(name)
	if errors.Is(err, unix.ENODEV) {
		return rtnl.BridgeLink{}, nil
	}
	if err != nil {
		return rtnl.BridgeLink{}, err
	}
	switch link.Kind {
	case "bridge":
		return link, nil
	case "": // hardware, or lo: nobody can remove the device
		return rtnl.BridgeLink{}, fmt.Errorf("%w: %s is not a bridge: set the key \"bridge\" to another name", ErrUnmanaged, name)
	default:
		return rtnl.BridgeLink{}, fmt.Errorf("%w: %s is of kind %q, not a bridge: remove it (ip link del %s), or set the key \"bridge\" to another name",
			ErrUnmanaged, name, link.Kind, name)
	}
}

func stateOf(link rtnl.Link) Bridge {
	return Bridge{
		Name: link.Name, MTU: link.MTU, MAC: link.MAC, Up: link.Up(), Resolves: link.ResolvesNeighbors(), Master: link.Master,
		Forwards: map[family.Family]bool{},
	}
}

// device wraps an index for functions of the library that take a link and use
// only its index.
func device(index int) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
}

func (k *Kernel) apply(o op) error {
	h, err := k.lib()
	if err != nil {
		return err
	}
	if o.verb == create {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = o.bridge, o.mac
		// Multicasts of pods reach no other pod anyway (rtnl.Batch.SetPort), and
		// with snooping the kernel sets timers of all ports for each new port.
		snooping := false
		err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping})
		if errors.Is(err, unix.EOPNOTSUPP) {
			err = fmt.Errorf("%w: the kernel lacks bridges: load the module bridge", err)
		}
		return err
	}
	link, err := k.conn.Link(o.bridge)
	if err != nil {
		return err
	}
	var b rtnl.Batch
	switch o.verb {
	case setMAC:
		if err := sysctl.SyncKnown(announcing(o.bridge)); err != nil {
			return err
		}
		return h.LinkSetHardwareAddr(device(link.Index), o.mac)
	case setMTU:
		return h.LinkSetMTU(device(link.Index), o.mtu)
	case setUp:
		return h.LinkSetUp(device(link.Index))
	case setForward:
		if o.family == family.IPv6 {
			if err := k.keepRouters(); err != nil {
				return err
			}
		}
		_, err := sysctl.Sync([]sysctl.Parameter{{Path: forwardPath(o.family), Value: "1"}})
		return err
	case setSysctl:
		return sysctl.SyncKnown([]sysctl.Parameter{o.param})
	case setResolve:
		b.SetResolvesNeighbors(o.bridge)
	case setOption:
		b.SetBridgeOption(o.bridge, o.option.BridgeOption, o.option.value)
	case release:
		b.SetNoMaster(o.bridge)
	case addAddress:
		b.AddAddr(link.Index, o.address)
	case delAddress:
		b.DelAddr(link.Index, o.address)
	}
	return k.conn.Run(&b)
}

// forwardPath is the sysctl that lets the kernel forward. It is the host's and not
// the bridge's: packets to pods come in by other interfaces, and for IPv6 only the
// host's counts (ip6_forward in net/ipv6/ip6_output.c).
func forwardPath(f family.Family) string { return "net/" + f.Proc() + "/conf/all/forwarding" }

func forwards(f family.Family) bool {
	v, err := sysctl.Get(forwardPath(f))
	return err == nil && v == "1"
}
