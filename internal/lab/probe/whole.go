package probe

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// Whole sends a datagram that nobody may fragment from ns to an echo server,
// and waits for it to come back. size is the packet's, with its IP header, in
// bytes. The error is unix.EMSGSIZE where the kernel of ns itself knows that the
// packet is too large for its way.
func Whole(ctx context.Context, ns *sandbox.Netns, dst netip.AddrPort, size int) error {
	if err := whole(ctx, ns, dst, size); err != nil {
		return fmt.Errorf("a whole packet of %d bytes from %s to %s: %w", size, ns.Name(), dst, err)
	}
	return nil
}

func whole(ctx context.Context, ns *sandbox.Netns, dst netip.AddrPort, size int) error {
	question := make([]byte, size-headers(dst.Addr()))
	_, _ = rand.Read(question) // never fails
	conn, err := open(ns, func() (*net.UDPConn, error) {
		return net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(dst))
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := forbidFragments(conn, dst.Addr()); err != nil {
		return err
	}
	_, err = exchange(ctx, conn, question)
	return err
}

// headers is the length of the headers of IP and UDP, in bytes.
func headers(dst netip.Addr) int {
	const udp = 8
	if dst.Is4() {
		return 20 + udp
	}
	return 40 + udp
}

// forbidFragments has the kernel refuse packets above the MTU of their way, and
// ask routers not to cut them.
func forbidFragments(conn *net.UDPConn, dst netip.Addr) error {
	level, option, value := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO
	if dst.Is6() {
		level, option, value = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), level, option, value) })
	if err := errors.Join(err, failed); err != nil {
		return fmt.Errorf("forbid fragments: %w", err)
	}
	return nil
}
