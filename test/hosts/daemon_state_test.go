package hosts

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

// state is everything on a host that a daemon could have a hand in, a line for
// each object: links with their indexes, addresses, routes of all tables, the
// tunnel's neighbours and FDB entries, the firewall table, the switches
// and the published file with the time of its writing. What traffic changes by
// itself, such as the neighbours on other interfaces, is left out.
func (f *fleet) state(h *lab.Host) []string {
	f.t.Helper()
	s := stateReader{fleet: f, handle: h.Handle(), names: map[int]string{}}
	s.links()
	s.addresses()
	s.routes()
	s.neighbors()
	s.firewall(h)
	s.files(h)
	slices.Sort(s.lines)
	return s.lines
}

// asNew removes from a state what differs between an object and its replacement:
// indexes, times of writing, and the bridge's link-local address, which is
// tentative for a second or two.
func asNew(state []string) []string {
	different := regexp.MustCompile(` (index|written) \S+`)
	kernels := regexp.MustCompile(`^(address|route) fe80::.* on cni0`)
	var lines []string
	for _, l := range state {
		if !kernels.MatchString(l) || strings.Contains(l, " fe80::1/") {
			lines = append(lines, different.ReplaceAllString(l, ""))
		}
	}
	return lines
}

// quiet returns once the kernel changes nothing more by itself: duplicate address
// detection of link-local addresses takes a second or two.
func (f *fleet) quiet(ctx context.Context) {
	f.t.Helper()
	f.quietOn(ctx, func(string) bool { return true })
}

// quietOn is quiet for some links, by name.
func (f *fleet) quietOn(ctx context.Context, concerns func(string) bool) {
	f.t.Helper()
	f.eventually(ctx, func(context.Context) error {
		for _, h := range f.hosts {
			for _, l := range listed(f, h.Handle().LinkList) {
				if !concerns(l.Attrs().Name) {
					continue
				}
				for _, a := range listed(f, func() ([]netlink.Addr, error) { return h.Handle().AddrList(l, netlink.FAMILY_V6) }) {
					if a.Flags&unix.IFA_F_TENTATIVE != 0 {
						return fmt.Errorf("%s: address %s is tentative", h.Name, a)
					}
				}
			}
		}
		return nil
	})
}

func (f *fleet) sameState(before, after []string) {
	f.t.Helper()
	if diff := cmp.Diff(before, after); diff != "" {
		f.t.Errorf("the host's state is another one (-before +after):\n%s", diff)
	}
}

type stateReader struct {
	*fleet
	handle *netlink.Handle
	names  map[int]string
	lines  []string
}

func (s *stateReader) add(format string, args ...any) {
	s.lines = append(s.lines, fmt.Sprintf(format, args...))
}

func (s *stateReader) links() {
	s.t.Helper()
	links := listed(s.fleet, s.handle.LinkList)
	for _, l := range links {
		s.names[l.Attrs().Index] = l.Attrs().Name
	}
	for _, l := range links {
		a := l.Attrs()
		more := ""
		if v, ok := l.(*netlink.Vxlan); ok {
			more = fmt.Sprintf(" vni %d port %d local %s over %s learning %v group %v",
				v.VxlanId, v.Port, v.SrcAddr, s.names[v.VtepDevIndex], v.Learning, v.Group)
		}
		if s.names[a.MasterIndex] == "cni0" {
			p, err := s.handle.LinkGetProtinfo(l)
			s.must(err)
			more += fmt.Sprintf(" isolated %v hairpin %v", p.Isolated, p.Hairpin)
		}
		s.add("link %s index %d %s mtu %d %s flags %#x master %q alias %q%s",
			a.Name, a.Index, l.Type(), a.MTU, a.HardwareAddr, a.RawFlags, s.names[a.MasterIndex], a.Alias, more)
	}
}

func (s *stateReader) addresses() {
	s.t.Helper()
	addrs := listed(s.fleet, func() ([]netlink.Addr, error) { return s.handle.AddrList(nil, netlink.FAMILY_ALL) })
	for _, a := range addrs {
		s.add("address %s on %s scope %d flags %#x peer %v", a.IPNet, s.names[a.LinkIndex], a.Scope, a.Flags, a.Peer)
	}
}

func (s *stateReader) routes() {
	s.t.Helper()
	routes := listed(s.fleet, func() ([]netlink.Route, error) {
		return s.handle.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	for _, r := range routes {
		s.add("route %s via %s on %s table %d type %d protocol %d scope %d source %s metric %d flags %#x",
			r.Dst, r.Gw, s.names[r.LinkIndex], r.Table, r.Type, r.Protocol, r.Scope, r.Src, r.Priority, r.Flags)
	}
}

func (s *stateReader) neighbors() {
	s.t.Helper()
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6, unix.AF_BRIDGE} {
		neighs := listed(s.fleet, func() ([]netlink.Neigh, error) { return s.handle.NeighList(0, family) })
		for _, n := range neighs {
			// The kernel makes multicast entries when it sends to them.
			if s.names[n.LinkIndex] == tunnel && !n.IP.IsMulticast() {
				s.add("neighbour of family %d: %s is %s, state %#x flags %#x", family, n.IP, n.HardwareAddr, n.State, n.Flags)
			}
		}
	}
}

func (s *stateReader) firewall(h *lab.Host) {
	s.t.Helper()
	table, err := nft(h, "list", "table", "inet", "overlay-cni")
	if err != nil {
		s.add("firewall: none")
	}
	for line := range strings.Lines(table) {
		s.add("firewall: %s", strings.TrimSpace(line))
	}
}

func (s *stateReader) files(h *lab.Host) {
	s.t.Helper()
	s.on(h.Netns(), func() error {
		for _, path := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
			value, err := os.ReadFile(filepath.Join("/proc/sys", path))
			if err != nil {
				return err
			}
			s.add("sysctl %s is %s", path, strings.TrimSpace(string(value)))
		}
		return nil
	})
	path := filepath.Join(h.RunDir(), nodestate.FileName)
	text, err := os.ReadFile(path)
	s.must(err)
	info, err := os.Stat(path)
	s.must(err)
	s.add("published written %d: %q", info.ModTime().UnixNano(), text)
}

// listed repeats a dump that the kernel says was interrupted.
func listed[T any](f *fleet, list func() ([]T, error)) []T {
	f.t.Helper()
	for range 10 {
		all, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			f.must(err)
			return all
		}
	}
	f.t.Fatal("the kernel's tables change faster than they can be listed")
	return nil
}

// recorder collects the kernel's notifications in a namespace.
type recorder struct {
	f       *fleet
	names   map[int]string
	sockets []int
}

// record subscribes.
func (f *fleet) record(h *lab.Host) *recorder {
	f.t.Helper()
	r := &recorder{f: f, names: map[int]string{}}
	for _, l := range listed(f, h.Handle().LinkList) {
		r.names[l.Attrs().Index] = l.Attrs().Name
	}
	const nftables = 7 // NFNLGRP_NFTABLES
	r.listen(h, unix.NETLINK_NETFILTER, nftables)
	r.listen(h, unix.NETLINK_ROUTE,
		unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF)
	return r
}

func (r *recorder) listen(h *lab.Host, protocol int, groups ...int) {
	r.f.t.Helper()
	fd := -1
	r.f.on(h.Netns(), func() (err error) {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
		return err
	})
	r.f.t.Cleanup(func() { unix.Close(fd) })
	err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	for _, g := range groups {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g))
	}
	r.f.must(err)
	r.sockets = append(r.sockets, fd)
}

// messages returns the notifications so far. The kernel queues each before it
// answers the request that caused it. Neighbours that traffic resolves are left
// out.
func (r *recorder) messages() []string {
	r.f.t.Helper()
	var all []string
	buf := make([]byte, 1<<16)
	for _, fd := range r.sockets {
		for {
			n, err := unix.Read(fd, buf)
			if errors.Is(err, unix.EAGAIN) {
				break
			}
			r.f.must(err)
			all = append(all, r.describe(buf[:n])...)
		}
	}
	return all
}

func (r *recorder) describe(in []byte) []string {
	var all []string
	for len(in) >= unix.NLMSG_HDRLEN {
		size, typ := int(binary.NativeEndian.Uint32(in)), binary.NativeEndian.Uint16(in[4:])
		payload := in[unix.NLMSG_HDRLEN:size]
		in = in[min((size+3)&^3, len(in)):]
		neighbor := typ == unix.RTM_NEWNEIGH || typ == unix.RTM_DELNEIGH
		if neighbor && r.names[int(binary.NativeEndian.Uint32(payload[4:]))] != tunnel {
			continue
		}
		all = append(all, fmt.Sprintf("message of type %d: %x", typ, payload))
	}
	return all
}
