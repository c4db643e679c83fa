package probe

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// Packet is a packet of TCP (a SYN), UDP or SCTP (an INIT). It has whatever
// addresses it is given, and right checksums.
type Packet struct {
	Protocol byte // unix.IPPROTO_*
	Src, Dst netip.AddrPort
	Payload  []byte // of UDP
}

// Bytes is the packet from the IP header on.
func (p Packet) Bytes() []byte {
	segment := p.segment()
	src, dst := p.Src.Addr(), p.Dst.Addr()
	if dst.Is6() {
		header := []byte{6 << 4, 0, 0, 0, 0, 0, p.Protocol, 64}
		binary.BigEndian.PutUint16(header[4:], uint16(len(segment)))
		return append(append(append(header, src.AsSlice()...), dst.AsSlice()...), segment...)
	}
	header := []byte{4<<4 | 5, 0, 0, 0, 0, 0, 0, 0, 64, p.Protocol, 0, 0}
	binary.BigEndian.PutUint16(header[2:], uint16(20+len(segment)))
	header = append(append(header, src.AsSlice()...), dst.AsSlice()...)
	binary.BigEndian.PutUint16(header[10:], checksum(header))
	return append(header, segment...)
}

// segment is the packet without its IP header.
func (p Packet) segment() []byte {
	b := binary.BigEndian.AppendUint16(nil, p.Src.Port())
	b = binary.BigEndian.AppendUint16(b, p.Dst.Port())
	switch p.Protocol {
	case unix.IPPROTO_TCP:
		const syn, window = 2, 0xff
		b = append(b, 0, 0, 0, 1, 0, 0, 0, 0, 5<<4, syn, window, window, 0, 0, 0, 0)
		binary.BigEndian.PutUint16(b[16:], checksum(p.pseudo(len(b)), b))
	case unix.IPPROTO_SCTP: // RFC 9260, section 3.3.2
		b = append(b, 0, 0, 0, 0, 0, 0, 0, 0) // no tag yet, checksum
		b = append(b, 1, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 1)
		binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	default:
		b = binary.BigEndian.AppendUint16(b, uint16(8+len(p.Payload)))
		b = append(append(b, 0, 0), p.Payload...)
		binary.BigEndian.PutUint16(b[6:], checksum(p.pseudo(len(b)), b))
	}
	return b
}

// pseudo is the header that checksums of TCP and UDP cover as well (RFC 9293, RFC
// 8200).
func (p Packet) pseudo(length int) []byte {
	b := append(p.Src.Addr().AsSlice(), p.Dst.Addr().AsSlice()...)
	b = append(b, 0, p.Protocol)
	return binary.BigEndian.AppendUint16(b, uint16(length))
}

func checksum(parts ...[]byte) uint16 {
	var sum uint32
	for _, b := range parts {
		for i := 0; i < len(b); i += 2 {
			sum += uint32(b[i]) << 8
			if i+1 < len(b) {
				sum += uint32(b[i+1])
			}
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// VXLAN is a packet in a tunnel: what a datagram to the tunnel's port holds (RFC
// 7348). to is the MAC address of the receiver's tunnel device.
func VXLAN(vni uint32, to net.HardwareAddr, inner Packet) []byte {
	b := append([]byte{8, 0, 0, 0}, binary.BigEndian.AppendUint32(nil, vni<<8)...)
	b = append(append(b, to...), 2, 0, 0, 0, 0, 0xbd) // some sender
	return append(binary.BigEndian.AppendUint16(b, etherType(inner.Dst.Addr())), inner.Bytes()...)
}

func etherType(a netip.Addr) uint16 {
	if a.Is4() {
		return unix.ETH_P_IP
	}
	return unix.ETH_P_IPV6
}

// Inject sends packets out of a link of ns to a neighbour's MAC address, past the
// routes and rules of ns.
func Inject(ns *sandbox.Netns, link string, to net.HardwareAddr, packets ...Packet) error {
	return ns.Do(func() error {
		l, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("inject packets: %w", err)
		}
		defer unix.Close(fd)
		at := unix.SockaddrLinklayer{Ifindex: l.Index}
		at.Halen = uint8(copy(at.Addr[:], to))
		for _, p := range packets {
			at.Protocol = binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, etherType(p.Dst.Addr())))
			if err := unix.Sendto(fd, p.Bytes(), 0, &at); err != nil {
				return fmt.Errorf("inject a packet to %s on %s of %s: %w", p.Dst, link, ns.Name(), err)
			}
		}
		return nil
	})
}

// Wire listens to what comes in on a link.
type Wire struct {
	fd int
}

// Tap listens to a link of ns from now on.
func Tap(ns *sandbox.Netns, link string) (*Wire, error) {
	fd := -1
	err := ns.Do(func() error {
		l, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Index})
	})
	if err != nil {
		return nil, fmt.Errorf("listen to %s of %s: %w", link, ns.Name(), err)
	}
	wait := unix.Timeval{Usec: 100_000} // so that Next returns
	return &Wire{fd}, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)
}

// Close ends listening.
func (w *Wire) Close() error { return unix.Close(w.fd) }

// Next returns the next packet from its IP header on, nil if none comes for a tenth
// of a second.
func (w *Wire) Next() []byte {
	buf := make([]byte, 1<<16)
	n, _, err := unix.Recvfrom(w.fd, buf, 0)
	if err != nil {
		return nil
	}
	return buf[:n]
}
