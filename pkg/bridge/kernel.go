package bridge

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/rtnl"
	"github.com/overlay-cni/overlay-cni/internal/sysctl"
)

// ErrForeign is for a device that has our bridge's name and is something else.
var ErrForeign = errors.New("the name belongs to another device")

// Kernel is the network namespace in which the bridge is. It is for one
// goroutine at a time.
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

// Ensure makes the bridge if it isn't there, and adds what it lacks, but changes
// and takes away nothing: other networks may share it, and its MAC address is
// in their pods' ARP caches. It returns the bridge's interface index.
//
// Where nothing has to be done, which is so for nearly every pod, a glance will
// do: a device with our MAC address, which nobody has by chance, is the bridge.
// One that another network made has another, so its kind is asked for. Addresses
// aren't looked at in either case: Attach adds them.
func (k *Kernel) Ensure(s Spec) (int, error) {
	want := s.Want()
	if link, err := k.conn.LinkByIoctl(s.Name); err == nil && len(lacks(want, link)) == 0 {
		return link.Index, nil
	}
	link, err := k.find(s.Name)
	if err != nil {
		return 0, err
	}
	if link.Index != 0 && len(additions(lacks(want, link), stateOf(link))) == 0 {
		return link.Index, nil
	}
	index, _, err := k.sync(want, addOnly)
	return index, err
}

// lacks lists the changes of the link itself that turn it into want.
func lacks(want Bridge, link rtnl.Link) []op {
	have := stateOf(link)
	have.Addresses, have.Forwards, have.Switches = want.Addresses, want.Forwards, want.Switches
	return plan(want, &have)
}

// Sync makes the bridge exactly as specified and returns what it changed.
func (k *Kernel) Sync(s Spec) ([]string, error) {
	_, changes, err := k.sync(s.Want(), exact)
	return changes, err
}

// additions are those of the changes to a bridge that take nothing away.
func additions(ops []op, have Bridge) []op {
	return slices.DeleteFunc(ops, func(o op) bool {
		return o.verb == delAddress || o.verb == setMAC || (o.verb == setMTU && !have.unfinished())
	})
}

// policy is what to do with what wasn't asked for.
type policy int

const (
	exact policy = iota
	addOnly
)

// attempts bounds how often sync looks again when another process changed the
// bridge at the same time: two first pods of a host both make it.
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
				break // somebody else was faster: look again
			}
			if err != nil {
				return 0, changes, fmt.Errorf("%s: %w", o, err)
			}
			changes = append(changes, o.String())
		}
	}
	return 0, changes, fmt.Errorf("bridge %s does not stay as it is set: another program changes it at the same time", want.Name)
}

// read returns the bridge, with as much as want says, or nil if there is none.
func (k *Kernel) read(want Bridge) (int, *Bridge, error) {
	link, err := k.find(want.Name)
	if err != nil || link.Index == 0 {
		return 0, nil, err
	}
	h, err := k.lib()
	if err != nil {
		return 0, nil, err
	}
	addrs, err := retryDump(func() ([]netlink.Addr, error) { return h.AddrList(device(link.Index), netlink.FAMILY_ALL) })
	if err != nil {
		return 0, nil, fmt.Errorf("list addresses of %s: %w", want.Name, err)
	}
	b := stateOf(link)
	b.Switches = readSwitches(want.Switches)
	for _, a := range addrs {
		// The kernel's own link-local address is none of ours.
		if p, ok := prefixOf(a); ok && (!p.Addr().IsLinkLocalUnicast() || p == linkLocal) {
			b.Addresses = append(b.Addresses, p)
		}
	}
	for _, f := range family.All() {
		b.Forwards[f] = forwards(f)
	}
	return link.Index, &b, nil
}

// find looks the bridge up; if there is none it has no index.
func (k *Kernel) find(name string) (rtnl.Link, error) {
	link, err := k.conn.Link(name)
	if errors.Is(err, unix.ENODEV) {
		return rtnl.Link{}, nil
	}
	if err != nil {
		return rtnl.Link{}, err
	}
	if link.Kind != "bridge" {
		return rtnl.Link{}, fmt.Errorf("%w: %s is of kind %q, not a bridge: remove it (ip link del %s), or set the key \"bridge\" to another name",
			ErrForeign, name, link.Kind, name)
	}
	return link, nil
}

func stateOf(link rtnl.Link) Bridge {
	return Bridge{Name: link.Name, MTU: link.MTU, MAC: link.MAC, Up: link.Up(), Forwards: map[family.Family]bool{}}
}

// device is an interface for the library, which looks at its index only.
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
		// Multicasts of pods go to no other pod, see rtnl.Batch.SetPort. With
		// snooping the kernel would still set timers of all ports with each new one.
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
	case setSwitch:
		return ensureSwitches([]sysctl.Parameter{o.param})
	case addAddress:
		b.AddAddr(link.Index, o.address)
	case delAddress:
		b.DelAddr(link.Index, o.address)
	}
	return k.conn.Run(&b)
}

// forwardPath is the switch that lets the kernel forward. It is the host's, not
// the bridge's: what comes to pods comes in elsewhere, and IPv6 has no other
// that counts (ip6_forward in net/ipv6/ip6_output.c).
func forwardPath(f family.Family) string { return "net/" + f.Proc() + "/conf/all/forwarding" }

func forwards(f family.Family) bool {
	v, err := sysctl.Get(forwardPath(f))
	return err == nil && v == "1"
}

func prefixOf(a netlink.Addr) (netip.Prefix, bool) {
	ip, ok := netip.AddrFromSlice(a.IP)
	bits, _ := a.Mask.Size()
	return netip.PrefixFrom(ip.Unmap(), bits), ok
}

// retryDump repeats a listing that the kernel says changed while it was made.
func retryDump[T any](list func() ([]T, error)) ([]T, error) {
	for range attempts {
		items, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return items, err
		}
	}
	return list()
}
