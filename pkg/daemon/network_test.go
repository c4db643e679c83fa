package daemon

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/iptables"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
	"github.com/overlay-cni/overlay-cni/pkg/underlay"
	"github.com/overlay-cni/overlay-cni/pkg/vxlan"
)

// Others send to an address of the tunnel's family, whichever it is.
func TestLeftOut(t *testing.T) {
	four, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	translated := netip.MustParseAddr("198.51.100.1")
	for name, tt := range map[string]struct {
		known  []netip.Addr
		tunnel netip.Addr
		out    bool
	}{
		"IPv4":                {[]netip.Addr{four}, four, false},
		"IPv6":                {[]netip.Addr{six}, six, false},
		"both":                {[]netip.Addr{four, six}, six, false},
		"IPv4, translated":    {[]netip.Addr{translated}, four, false},
		"the tunnel has IPv6": {[]netip.Addr{four}, six, true},
		"the tunnel has IPv4": {[]netip.Addr{six}, four, true},
	} {
		err := leftOut(registry.Node{Name: "host-a", Addresses: tt.known}, underlay.Underlay{Name: "eth0", Address: tt.tunnel})
		if (err != nil) != tt.out {
			t.Errorf("%s: %v", name, err)
		}
		if tt.out && !strings.Contains(err.Error(), tt.tunnel.String()+" on eth0") {
			t.Errorf("%s: %v does not name the tunnel's address", name, err)
		}
	}
}

// Everything is read again once a resync, and at the start.
func TestDoubtComesOnceInAResync(t *testing.T) {
	for name, tt := range map[string]struct {
		read time.Time
		want bool
	}{
		"just read":    {time.Now().Add(-time.Minute), false},
		"a resync ago": {time.Now().Add(-time.Hour), true},
		"never":        {time.Time{}, true},
	} {
		d := &daemon{vxlan: &vxlan.Kernel{}, iptables: iptables.New(), resync: time.Hour, read: tt.read}
		d.doubt()
		if got := !d.read.Equal(tt.read); got != tt.want {
			t.Errorf("%s: read again: %t", name, got)
		}
	}
}
