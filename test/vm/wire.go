package main

import (
	"net/netip"
	"path/filepath"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// wireMTU is that of the machines' network, in bytes.
const wireMTU = 1500

// What is on the wire beside the machines: their router, which is the outside
// world to pods and has no route to any of them.
var (
	router  = []netip.Prefix{netip.MustParsePrefix("192.168.77.254/24"), netip.MustParsePrefix("fd00:77::ffff/64")}
	outside = []netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8::1")}
)

// newWire makes the wire: a bridge in a namespace, both called "switch".
func newWire(dir string) (*sandbox.Netns, error) {
	l, err := lab.New(lab.Config{Dir: filepath.Join(dir, "lab"), Segments: router, Outside: outside, MTU: wireMTU})
	if err != nil {
		return nil, err
	}
	return l.Switch(), nil
}

// bridgeName is the wire's bridge.
const bridgeName = "switch"
