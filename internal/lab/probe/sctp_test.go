package probe

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
)

// TestStreamSockets has TCP in SCTP's place, which few kernels have. SCTP itself
// is tried in test/vm.
func TestStreamSockets(t *testing.T) {
	for _, address := range []string{"127.0.0.1", "::1"} {
		t.Run(address, func(t *testing.T) {
			ns := sandboxtest.NewNetns(t)
			at := netip.AddrPortFrom(netip.MustParseAddr(address), 80)
			dialed := func() (net.Conn, error) { return dial(unix.IPPROTO_TCP, at, time.Now().Add(defaultWait)) }
			if _, err := open(ns, dialed); err == nil || err.Error() != "connect: connection refused" {
				t.Errorf("without a server: %v", err)
			}
			listener, err := open(ns, func() (net.Listener, error) { return listen(unix.IPPROTO_TCP, at) })
			if err != nil {
				t.Fatal(err)
			}
			server := serve(listener, func() { mirror(listener) })
			defer server.Close()
			conn, err := open(ns, dialed)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			seen, err := look(t.Context(), conn, at.Addr(), 0)
			if err != nil || seen.Source.Addr() != at.Addr() {
				t.Errorf("the mirror saw %s, %v", seen.Source, err)
			}
		})
	}
}

// TestDialGivesUp has a link at whose other end nobody answers.
func TestDialGivesUp(t *testing.T) {
	ns := sandboxtest.NewNetns(t)
	h, err := ns.Handle()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "near", Flags: net.FlagUp}, PeerName: "far"}
	own := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 1), Mask: net.CIDRMask(24, 32)}}
	if err := errors.Join(h.LinkAdd(link), h.AddrAdd(link, own)); err != nil {
		t.Fatal(err)
	}
	const wait = 50 * time.Millisecond
	start := time.Now()
	_, err = open(ns, func() (net.Conn, error) {
		return dial(unix.IPPROTO_TCP, netip.MustParseAddrPort("192.0.2.2:80"), start.Add(wait))
	})
	if took := time.Since(start); !errors.Is(err, unix.ETIMEDOUT) || took < wait {
		t.Errorf("after %v: %v", took, err)
	}
}
