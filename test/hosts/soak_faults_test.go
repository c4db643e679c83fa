package hosts

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/pkg/hostport"
)

// breakRules damages the daemon's nftables table or that of host ports.
func (s *soak) breakRules(h *lab.Host) {
	all := ruleDamages()
	maps.Copy(all, portDamages())
	names := slices.Sorted(maps.Keys(all))
	name := names[s.rng.IntN(len(names))]
	_, err := nft(h, all[name])
	s.tolerate(name, err)
}

func portDamages() map[string]string {
	const table = "inet " + hostport.TableName
	return map[string]string{
		"the table of host ports is deleted": "delete table " + table,
		"the host ports are closed":          "flush map " + table + " ports4",
	}
}

// breakIPTables is what firewalls, Docker's daemon and people do.
func (s *soak) breakIPTables(h *lab.Host) {
	kind := []string{"nft", "legacy"}[s.rng.IntN(2)]
	deeds := [][][]string{
		{{"-F"}},
		{{"-P", "FORWARD", "DROP"}},
		{{"-P", "FORWARD", "ACCEPT"}},
		{{"-N", "DOCKER-USER"}, {"-I", "FORWARD", "-j", "DOCKER-USER"}, {"-P", "FORWARD", "DROP"}},
		{{"-D", "FORWARD", "-j", "OVERLAY-CNI-FWD"}},
		{{"-F", "OVERLAY-CNI-FWD"}},
		{{"-I", "FORWARD", "-j", "OVERLAY-CNI-FWD"}},
	}
	for _, args := range deeds[s.rng.IntN(len(deeds))] {
		for _, program := range []string{"iptables", "ip6tables"} {
			cmd := exec.Command(program+"-"+kind, append([]string{"-w"}, args...)...)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			s.must(h.Netns().Start(cmd))
			if err := cmd.Wait(); err != nil {
				s.tolerate(cmd.String(), fmt.Errorf("%w: %s", err, out.Bytes()))
			}
		}
	}
}

// turnSwitch changes a kernel parameter that routing needs.
func (s *soak) turnSwitch(h *lab.Host) {
	turns := [][2]string{
		{"net/ipv4/ip_forward", "0"},
		{"net/ipv6/conf/all/forwarding", "0"},
		{"net/ipv4/conf/all/rp_filter", "1"},
		{"net/ipv4/conf/cni0/rp_filter", "1"},
		{"net/ipv4/conf/overlay0/forwarding", "0"},
	}
	turn := turns[s.rng.IntN(len(turns))]
	s.tolerate(turn[0], h.Netns().Do(func() error { // its device may be away
		return os.WriteFile(filepath.Join("/proc/sys", turn[0]), []byte(turn[1]), 0)
	}))
}

// wire is how a host is to be connected to the others.
type wire struct {
	host    *lab.Host
	device  string // that has the address: eth0, or br0 with eth0 as its port
	address netip.Addr
	broken  bool
}

// breakUnderlay removes or changes the way to the other hosts. Its next call
// repairs that.
func (s *soak) breakUnderlay(h *lab.Host) {
	w := s.wires[h]
	deed := s.rng.IntN(6)
	switch {
	case w.broken:
	case deed == 0:
		w.broken = true
		s.must(onLink("eth0", (*netlink.Handle).LinkSetDown)(h.Handle()))
		return
	case deed == 1:
		w.broken = true
		s.must(onLink(w.device, func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetMTU(l, 1400) })(h.Handle()))
		return
	case deed == 2:
		w.address = s.otherAddress(h)
	case deed == 3:
		s.must(onLink("eth0", (*netlink.Handle).LinkDel)(h.Handle()))
	case w.device == "eth0":
		w.device = "br0"
	default:
		w.device = "eth0"
	}
	s.mendUnderlay(h)
	s.registry.moved(s)
}

// otherAddress is one that no other host has.
func (s *soak) otherAddress(h *lab.Host) netip.Addr {
	const each = 10
	have := s.wires[h].address
	for {
		a := netip.AddrFrom4([4]byte{192, 168, 77, byte(100 + each*slices.Index(s.hosts, h) + s.rng.IntN(each))})
		if a != have {
			return a
		}
	}
}

// mendUnderlay connects a host as it is to be.
func (s *soak) mendUnderlay(h *lab.Host) {
	w, handle := s.wires[h], h.Handle()
	if _, err := handle.LinkByName("eth0"); err != nil {
		_ = onLink("br0", (*netlink.Handle).LinkDel)(handle) // there may be none; it has the default route
		one := *s.fleet
		one.hosts = []*lab.Host{h}
		one.plugInAnew()
	}
	s.must(mendBridge(handle, w.device == "br0"))
	s.must(onLink(w.device, func(handle *netlink.Handle, l netlink.Link) error {
		return errors.Join(handle.LinkSetMTU(l, 1500), handle.LinkSetUp(l), only(handle, l, w.address),
			handle.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.IPv4(192, 168, 77, 254)}))
	})(handle))
	w.broken = false
}

// mendBridge has eth0 up, and a port of br0 or not.
func mendBridge(handle *netlink.Handle, wanted bool) error {
	bridge, err := handle.LinkByName("br0")
	switch {
	case err != nil && wanted:
		bridge = &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", MTU: 1500}}
		err = handle.LinkAdd(bridge)
	case err != nil:
		err = nil
	case !wanted:
		err = handle.LinkDel(bridge)
	}
	return errors.Join(err, onLink("eth0", func(h *netlink.Handle, l netlink.Link) error {
		err := errors.Join(h.LinkSetMTU(l, 1500), h.LinkSetUp(l))
		if wanted {
			err = errors.Join(err, only(h, l, netip.Addr{}), h.LinkSetMaster(l, bridge))
		}
		return err
	})(handle))
}

// only has a link have one IPv4 address, or none.
func only(handle *netlink.Handle, l netlink.Link, address netip.Addr) error {
	addrs, err := handle.AddrList(l, netlink.FAMILY_V4)
	errs := []error{err}
	for _, a := range addrs {
		if have, _ := netip.AddrFromSlice(a.IP.To4()); have != address {
			errs = append(errs, handle.AddrDel(l, &a))
		}
	}
	if address.IsValid() {
		errs = append(errs, handle.AddrReplace(l, &netlink.Addr{IPNet: ipNetOf(netip.PrefixFrom(address, 24))}))
	}
	return errors.Join(errs...)
}
