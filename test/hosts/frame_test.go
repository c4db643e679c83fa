package hosts

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
)

// mac is a MAC address.
type mac [6]byte

func macOf(h net.HardwareAddr) mac { return mac(h) }

// linkLocal is the address that the kernel makes of a MAC address.
func (m mac) linkLocal() netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}

// ether is a frame. It is not padded: br_netfilter cuts padding off.
func ether(dst, src mac, typ uint16, payload []byte) []byte {
	return slices.Concat(dst[:], src[:], binary.BigEndian.AppendUint16(nil, typ), payload)
}

// tagged puts a VLAN tag into a frame.
func tagged(protocol, vlan uint16, frame []byte) []byte {
	tag := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, protocol), vlan)
	return slices.Concat(frame[:12], tag, frame[12:])
}

// ip is a packet of the family of its addresses.
func ip(src, dst netip.Addr, protocol byte, payload []byte) []byte {
	if src.Is4() {
		return ipv4(src, dst, protocol, payload)
	}
	header := []byte{0x60, 0, 0, 0, byte(len(payload) >> 8), byte(len(payload)), protocol, 255}
	return slices.Concat(header, src.AsSlice(), dst.AsSlice(), payload)
}

func ipv4(src, dst netip.Addr, protocol byte, payload []byte) []byte {
	n := 20 + len(payload)
	header := slices.Concat([]byte{0x45, 0, byte(n >> 8), byte(n), 0, 1, 0, 0, 64, protocol, 0, 0}, src.AsSlice(), dst.AsSlice())
	binary.BigEndian.PutUint16(header[10:], checksum(header))
	return append(header, payload...)
}

// fragment makes the second fragment of an IPv4 packet out of a whole one.
func fragment(packet []byte) []byte {
	packet = slices.Clone(packet)
	packet[7], packet[10], packet[11] = 1, 0, 0 // offset 8
	binary.BigEndian.PutUint16(packet[10:], checksum(packet[:20]))
	return packet
}

func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// udp has no checksum over IPv4, where none is needed, and a right one over IPv6.
func udp(src, dst netip.Addr, from, to uint16, text string) []byte {
	n := uint16(8 + len(text))
	b := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from), to)
	b = append(binary.BigEndian.AppendUint16(b, n), 0, 0)
	b = append(b, text...)
	if src.Is6() {
		binary.BigEndian.PutUint16(b[6:], pseudo(src, dst, unix.IPPROTO_UDP, b))
	}
	return ip(src, dst, unix.IPPROTO_UDP, b)
}

func pseudo(src, dst netip.Addr, protocol byte, payload []byte) uint16 {
	header := binary.BigEndian.AppendUint32(slices.Concat(src.AsSlice(), dst.AsSlice()), uint32(len(payload)))
	return checksum(slices.Concat(header, []byte{0, 0, 0, protocol}, payload))
}

// icmp6 is a message of ICMPv6 with a right checksum. The body begins after it.
func icmp6(src, dst netip.Addr, typ byte, body []byte) []byte {
	return ip(src, dst, unix.IPPROTO_ICMPV6, icmp6Message(src, dst, typ, body))
}

func icmp6Message(src, dst netip.Addr, typ byte, body []byte) []byte {
	b := append([]byte{typ, 0, 0, 0}, body...)
	binary.BigEndian.PutUint16(b[2:], pseudo(src, dst, unix.IPPROTO_ICMPV6, b))
	return b
}

// targeted is the body of a neighbour solicitation or advertisement: flags that
// override what is known, the target, and options.
func targeted(target netip.Addr, options ...[]byte) []byte {
	return slices.Concat([]byte{0x20, 0, 0, 0}, target.AsSlice(), slices.Concat(options...))
}

// option is an option of neighbour discovery of 8 bytes.
func option(typ byte, m mac) []byte { return append([]byte{typ, 1}, m[:]...) }

const (
	arpRequest, arpReply      = 1, 2
	sourceOption, targetMAC   = 1, 2
	nonceOption               = 14
	advertRA, solicitRS       = 134, 133
	solicitNS, advertNA       = 135, 136
	redirect6, mld2, mldQuery = 137, 143, 130
)

func arp(op byte, senderMAC mac, sender netip.Addr, target netip.Addr) []byte {
	return slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, op}, senderMAC[:], sender.AsSlice(), make([]byte, 6), target.AsSlice())
}

// tap is a packet socket on one interface.
type tap struct{ fd int }

func newTap(t *testing.T, ns *sandbox.Netns, ifName string) tap {
	t.Helper()
	var fd int
	sandboxtest.Do(t, ns, func() error {
		link, err := net.InterfaceByName(ifName)
		if err != nil {
			return err
		}
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		return errors.Join(unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index}),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(patience / time.Second)}))
	})
	t.Cleanup(func() { _ = unix.Close(fd) })
	return tap{fd}
}

// send sends frames that arrive in order: each CPU has a queue of its own for what
// veth pairs receive, so all frames are sent on one CPU.
func (s tap) send(t *testing.T, frames ...[]byte) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	cpu := 0
	for !all.IsSet(cpu) {
		cpu++
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	for _, frame := range frames {
		if _, err := unix.Write(s.fd, frame); err != nil {
			t.Error(err)
		}
	}
	if err := unix.SchedSetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
}

// sees reports whether the frame arrives before the fence, which does arrive. The
// kernel gives a packet socket a VLAN tag apart from the frame.
func (s tap) sees(t *testing.T, frame, fence []byte) bool {
	t.Helper()
	untagged := slices.Concat(frame[:12], frame[16:])
	buffer, seen := make([]byte, 2000), false
	for {
		n, err := unix.Read(s.fd, buffer)
		if err != nil {
			t.Fatal(fmt.Errorf("waiting for the fence: %w", err))
		}
		switch got := buffer[:n]; {
		case bytes.Equal(got, fence):
			return seen
		case bytes.Equal(got, frame), bytes.Equal(got, untagged):
			seen = true
		}
	}
}
