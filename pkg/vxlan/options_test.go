package vxlan

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/tunnel"
)

// optionCases are all options, and whether the kernel can set each on a live
// device.
func optionCases() []struct {
	name  string
	set   func(c *Config)
	live  bool
	only4 bool // has no meaning over IPv6
	only6 bool // over IPv4
} {
	return []struct {
		name  string
		set   func(c *Config)
		live  bool
		only4 bool
		only6 bool
	}{
		{name: "source ports", set: func(c *Config) { c.SourcePorts = tunnel.PortRange{Low: 5000, High: 5010} }},
		{name: "zero checksum", set: func(c *Config) { c.ZeroChecksum = true }},
		{name: "zero checksum accepted", set: func(c *Config) { c.AcceptZeroChecksum = true }, only6: true},
		{name: "TTL", set: func(c *Config) { c.TTL = 7 }, live: true},
		{name: "TTL inherited", set: func(c *Config) { c.TTL = tunnel.InheritTTL }},
		{name: "TOS", set: func(c *Config) { c.TOS = 184 }, live: true},
		{name: "TOS inherited", set: func(c *Config) { c.TOS = tunnel.InheritTOS }, live: true},
		{name: "DF", set: func(c *Config) { c.DF = tunnel.DFSet }, live: true, only4: true},
		{name: "DF inherited", set: func(c *Config) { c.DF = tunnel.DFInherit }, live: true, only4: true},
		{name: "checksum offload off", set: func(c *Config) { c.TxChecksum = tunnel.OffloadOff }, live: true},
		{name: "checksum offload on", set: func(c *Config) { c.TxChecksum = tunnel.OffloadOn }, live: true},
	}
}

// Each option is set and taken back, and the device is made anew only where
// there is no other way.
func TestSyncFollowsOptions(t *testing.T) {
	t.Parallel()
	for _, tt := range optionCases() {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			eachFamily(t, func(t *testing.T, h *host, f familyCase) {
				in := Input{Config: testConfig(), Underlay: h.underlayOf(f.underlay), Own: f.node(1), Nodes: f.nodes(2, 3)}
				plain := h.desire(in)
				h.sync(plain)
				tt.set(&in.Config)
				want, err := Desired(in)
				is4 := in.Underlay.Address.Is4()
				if tt.only6 && is4 {
					if err != nil || want.Device != plain.Device {
						t.Errorf("over IPv4 the option has an effect: %v, %v", want.Device, err)
					}
					return
				}
				if tt.only4 && !is4 {
					if err == nil || !strings.Contains(err.Error(), "but the tunnel runs over IPv") {
						t.Errorf("error is %v", err)
					}
					return
				}
				h.must(err)
				for _, s := range []State{want, plain} {
					index := h.index("overlay0")
					h.sync(s)
					h.check(s)
					if kept := h.index("overlay0") == index; kept != tt.live && want.Device.Tunnel != plain.Device.Tunnel {
						t.Errorf("the device stayed: %t, want %t", kept, tt.live)
					}
				}
			})
		})
	}
}

// Without options the device is as ip makes it without options, so devices that
// earlier releases made stay.
func TestDefaultOptionsKeepOlderDevices(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, h *host, f familyCase) {
		v := &netlink.Vxlan{
			LinkAttrs: netlink.LinkAttrs{Name: "overlay0"}, VxlanId: 1, Port: 4789, UDPCSum: true,
			VtepDevIndex: h.index("eth0"), SrcAddr: netip.MustParseAddr(f.underlay).AsSlice(),
		}
		h.must(h.nl.LinkAdd(v))
		want := h.want(f.underlay, f.node(1), f.nodes(2)...)
		want.Device.Claimed = true
		changes := h.sync(want)
		if contains(changes, CreateDevice) || contains(changes, SetTunnel) {
			t.Errorf("changes are %s", changes)
		}
		h.check(want)
	})
}

func TestOptionsAreChecked(t *testing.T) {
	four, six := families()[0], families()[1]
	tests := []struct {
		name string
		f    familyCase
		o    tunnel.Options
		want string // part of the error; empty: none
	}{
		{"none", four, tunnel.Options{}, ""},
		{"one source port", four, tunnel.Options{SourcePorts: tunnel.PortRange{Low: 5000, High: 5000}}, "source ports 5000-5000"},
		{"source ports the wrong way round", six, tunnel.Options{SourcePorts: tunnel.PortRange{Low: 6000, High: 5000}}, "source ports 6000-5000"},
		{"source port 0", four, tunnel.Options{SourcePorts: tunnel.PortRange{Low: 0, High: 5000}}, "source ports 0-5000"},
		{"all source ports", four, tunnel.Options{SourcePorts: tunnel.PortRange{Low: 1, High: 65535}}, ""},
		{"TTL too large", four, tunnel.Options{TTL: 256}, "ttl 256: expected 1 to 255"},
		{"TTL too small", six, tunnel.Options{TTL: -2}, "ttl -2"},
		{"TOS with a bit of ECN", four, tunnel.Options{TOS: 186}, "tos 186: expected inherit, or a multiple of 4"},
		{"TOS inherited", six, tunnel.Options{TOS: tunnel.InheritTOS}, ""},
		{"DF over IPv6", six, tunnel.Options{DF: tunnel.DFSet}, "set df to unset"},
		{"unknown DF", four, tunnel.Options{DF: 3}, "df 3: expected unset"},
	}
	for _, tt := range tests {
		in := input(tt.f)
		in.Config.Options = tt.o
		s, err := Desired(in)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: error is %v, want %q", tt.name, err, tt.want)
		}
		if (err == nil) != (s.Device.Name != "") {
			t.Errorf("%s: device is %+v", tt.name, s.Device)
		}
	}
}

// Zero checksums are accepted where accepting has an effect, and on every host
// that sends them.
func TestAcceptingZeroChecksums(t *testing.T) {
	four, six := netip.MustParseAddr("192.168.77.1"), netip.MustParseAddr("fd77::1")
	tests := []struct {
		local        netip.Addr
		send, accept bool
		want         bool
	}{
		{four, false, true, false},
		{four, true, false, false},
		{six, false, false, false},
		{six, false, true, true},
		{six, true, false, true},
	}
	for _, tt := range tests {
		o := tunnel.Options{ZeroChecksum: tt.send, AcceptZeroChecksum: tt.accept}
		if got := optionsOver(tt.local, o).AcceptZeroChecksum; got != tt.want {
			t.Errorf("over %s, %+v: accepted %t", tt.local, o, got)
		}
	}
}

func TestOffload(t *testing.T) {
	tests := []struct {
		offload tunnel.Offload
		drivers string
		want    bool
	}{
		{tunnel.OffloadAuto, "", true},
		{tunnel.OffloadAuto, "virtio_net", true},
		{tunnel.OffloadAuto, "vmxnet3", false},
		{tunnel.OffloadAuto, "802.1Q bonding vmxnet3", false},
		{tunnel.OffloadOn, "vmxnet3", true},
		{tunnel.OffloadOff, "virtio_net", false},
	}
	for _, tt := range tests {
		if got := offloads(tt.offload, strings.Fields(tt.drivers)); got != tt.want {
			t.Errorf("%d over %q is %t", tt.offload, tt.drivers, got)
		}
	}
}

// A change of the offload by hand is reported to those who watch links.
func TestKernelTellsOfOffload(t *testing.T) {
	t.Parallel()
	h := newHost(t).withUnderlay("192.168.77.1/24")
	f := families()[0]
	want := h.want(f.underlay, f.node(1), f.nodes(2)...)
	h.sync(want)
	messages := h.watch()
	h.must(h.k.conn.SetTxChecksum("overlay0", false))
	told := false
	for _, m := range messages() {
		told = told || binary.NativeEndian.Uint16(m[4:]) == unix.RTM_NEWLINK && strings.Contains(string(m), "overlay0\x00")
	}
	if !told {
		t.Error("there was no message about the link")
	}
}

// The options are those of the packets on the wire.
func TestOptionsOnTheWire(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		set    func(c *Config)
		only4  bool
		checks func(t *testing.T, p outer)
	}{
		{"none", func(*Config) {}, false, func(t *testing.T, p outer) {
			if p.ttl != 64 || p.zeroChecksum || p.df || p.tos != innerTOS&ecn {
				t.Errorf("got %+v", p)
			}
		}},
		{"source ports", func(c *Config) { c.SourcePorts = tunnel.PortRange{Low: 5000, High: 5001} }, false, func(t *testing.T, p outer) {
			if p.port != 5000 { // High is never taken
				t.Errorf("source port %d", p.port)
			}
		}},
		{"zero checksum", func(c *Config) { c.ZeroChecksum = true }, false, func(t *testing.T, p outer) {
			if !p.zeroChecksum {
				t.Error("there is a checksum")
			}
		}},
		{"TTL", func(c *Config) { c.TTL = 7 }, false, func(t *testing.T, p outer) {
			if p.ttl != 7 {
				t.Errorf("TTL %d", p.ttl)
			}
		}},
		{"TTL inherited", func(c *Config) { c.TTL = tunnel.InheritTTL }, false, func(t *testing.T, p outer) {
			if p.ttl != innerTTL {
				t.Errorf("TTL %d", p.ttl)
			}
		}},
		{"TOS", func(c *Config) { c.TOS = 0x88 }, false, func(t *testing.T, p outer) {
			if p.tos != 0x88|innerTOS&ecn {
				t.Errorf("TOS %#x", p.tos)
			}
		}},
		{"TOS inherited", func(c *Config) { c.TOS = tunnel.InheritTOS }, false, func(t *testing.T, p outer) {
			if p.tos != innerTOS {
				t.Errorf("TOS %#x", p.tos)
			}
		}},
		{"DF", func(c *Config) { c.DF = tunnel.DFSet }, true, func(t *testing.T, p outer) {
			if !p.df {
				t.Error("DF is not set")
			}
		}},
		{"checksum offload off", func(c *Config) { c.TxChecksum = tunnel.OffloadOff }, false, func(t *testing.T, p outer) {
			if p.zeroChecksum {
				t.Error("there is no checksum")
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, f := range families() {
				if tt.only4 && strings.Contains(f.underlay, ":") {
					continue
				}
				t.Run(f.name, func(t *testing.T) {
					t.Parallel()
					tt.checks(t, sendOne(t, f, tt.set))
				})
			}
		})
	}
}

// Both ends have the option; where one sends zero checksums over IPv6, the other
// one must take them.
func TestTrafficWithOptions(t *testing.T) {
	t.Parallel()
	for _, tt := range optionCases() {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, f := range families() {
				six := strings.Contains(f.underlay, ":")
				if tt.only4 && six || tt.only6 && !six {
					continue
				}
				t.Run(f.name, func(t *testing.T) {
					t.Parallel()
					hosts := tunnelled(t, f, func(c *Config) {
						tt.set(c)
						c.AcceptZeroChecksum = six
					})
					for _, p := range f.node(2).Subnets {
						hosts[0].ping(hosts[1].echo(pod(p)), 1000)
					}
				})
			}
		})
	}
}

// tunnelled are two hosts with a tunnel and pods.
func tunnelled(t *testing.T, f familyCase, set func(*Config)) [2]*host {
	t.Helper()
	hosts := pair(t, f)
	for i, h := range hosts {
		from := f.node(i + 1).Addresses[0]
		if netip.MustParseAddr(f.underlay).Is6() {
			from = f.node(i + 1).Addresses[len(f.node(i+1).Addresses)-1]
		}
		in := Input{Config: testConfig(), Underlay: h.underlayOf(from.String()), Own: f.node(i + 1), Nodes: f.nodes(1, 2)}
		set(&in.Config)
		h.sync(h.desire(in))
		for _, p := range f.node(i + 1).Subnets {
			h.addAddr("lo", netip.PrefixFrom(pod(p), pod(p).BitLen()).String())
		}
	}
	return hosts
}

// outer is what was on the wire around a packet of the tunnel.
type outer struct {
	port         uint16
	ttl, tos     byte
	df           bool
	zeroChecksum bool
}

// Those of the packet in the tunnel. The lowest two bits of the TOS are ECN's: it is
// capable of ECN (codepoint 10 in RFC 3168).
const (
	innerTTL = 33
	innerTOS = 46<<2 | 2
)

// sendOne sends a packet to a pod on another host and catches it there.
func sendOne(t *testing.T, f familyCase, set func(*Config)) outer {
	t.Helper()
	hosts := tunnelled(t, f, set)
	to := netip.AddrPortFrom(pod(f.node(2).Subnets[0]), 9)
	wire := hosts[1].capture()
	var c net.Conn
	hosts[0].in(func() (err error) {
		c, err = net.Dial("udp", to.String())
		return err
	})
	defer c.Close()
	hosts[0].must(setInner(c.(*net.UDPConn), to.Addr().Is4()))
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		_, err := c.Write(make([]byte, 100)) // more than once: the first ones may be lost
		if err != nil {
			t.Log(err) // the port is closed
		}
		if p, ok := wire(); ok {
			return p
		}
	}
	t.Fatal("nothing arrived")
	return outer{}
}

func setInner(c *net.UDPConn, is4 bool) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		if is4 {
			failed = errors.Join(unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, innerTTL),
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TOS, innerTOS))
		} else {
			failed = errors.Join(unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, innerTTL),
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_TCLASS, innerTOS))
		}
	})
	if err != nil {
		return err
	}
	return failed
}

// capture returns a function that waits 200 ms for a packet to the tunnel's port.
func (h *host) capture() func() (outer, bool) {
	h.t.Helper()
	all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
	var fd int
	h.in(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(all))
		return err
	})
	h.t.Cleanup(func() { unix.Close(fd) })
	h.must(unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: h.index("eth0")}))
	h.must(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000}))
	return func() (outer, bool) {
		buf := make([]byte, 2000)
		for {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				return outer{}, false
			}
			if p, ok := parseOuter(buf[:n]); ok {
				return p, true
			}
		}
	}
}

func parseOuter(ip []byte) (outer, bool) {
	if len(ip) < 48 {
		return outer{}, false
	}
	p := outer{ttl: ip[8], tos: ip[1], df: ip[6]&0x40 != 0}
	udp, protocol := ip[20:], ip[9]
	if ip[0]>>4 == 6 {
		p = outer{ttl: ip[7], tos: ip[0]<<4 | ip[1]>>4}
		udp, protocol = ip[40:], ip[6]
	}
	if protocol != unix.IPPROTO_UDP || binary.BigEndian.Uint16(udp[2:]) != 4789 {
		return outer{}, false
	}
	p.port, p.zeroChecksum = binary.BigEndian.Uint16(udp), binary.BigEndian.Uint16(udp[6:]) == 0
	return p, true
}
