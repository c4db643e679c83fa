package vxlan

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/overlay-cni/overlay-cni/internal/tunnel"
)

// ErrNotOurs says that another program made a device, so that it stays as it is.
var ErrNotOurs = errors.New("is not ours")

// refuse returns ErrNotOurs if the actual device belongs to another program. A
// device without the alias is ours if it is as desired, since an earlier run may
// have ended before it set the alias.
func refuse(want, have Device) error {
	const fix = "remove it with \"ip link del %s\", or set vxlan.device to another name"
	switch {
	case have.Name == "":
		return nil
	case have.Kind != kindVXLAN:
		return fmt.Errorf("device %q %w: it is of kind %s instead of vxlan: "+fix, have.Name, ErrNotOurs, have.Kind, have.Name)
	case have.Alias == want.Alias, want.Claimed:
		return nil
	}
	if diff := differences(want.Tunnel, have.Tunnel); len(diff) > 0 {
		return fmt.Errorf("vxlan device %q %w: it does not have the alias %q, and has %s: "+fix,
			have.Name, ErrNotOurs, want.Alias, strings.Join(diff, ", "), have.Name)
	}
	return nil
}

// differences says in words how have differs from want.
func differences(want, have tunnel.Tunnel) []string {
	var diff []string
	add := func(differs bool, format string, args ...any) {
		if differs {
			diff = append(diff, fmt.Sprintf(format, args...))
		}
	}
	add(want.VNI != have.VNI, "VNI %d instead of %d", have.VNI, want.VNI)
	add(want.Port != have.Port, "port %d instead of %d", have.Port, want.Port)
	add(want.Local != have.Local, "local address %s instead of %s", orNone(have.Local), want.Local)
	add(want.Underlay != have.Underlay, "underlay interface %d instead of %d", have.Underlay, want.Underlay)
	add(want.Learning != have.Learning, "learning on instead of off")
	add(want.SourcePorts != have.SourcePorts, "source ports %s instead of %s", have.SourcePorts, want.SourcePorts)
	add(want.ZeroChecksum != have.ZeroChecksum, "zero UDP checksums sent: %t instead of %t", have.ZeroChecksum, want.ZeroChecksum)
	add(want.AcceptZeroChecksum != have.AcceptZeroChecksum, "zero UDP checksums accepted: %t instead of %t", have.AcceptZeroChecksum, want.AcceptZeroChecksum)
	add(want.TTL != have.TTL, "TTL %s instead of %s", have.TTL, want.TTL)
	add(want.TOS != have.TOS, "TOS %s instead of %s", have.TOS, want.TOS)
	add(want.DF != have.DF, "DF %s instead of %s", have.DF, want.DF)
	add(want.More != have.More, "further options%s", have.More)
	return diff
}

func orNone(a netip.Addr) string {
	if !a.IsValid() {
		return "none"
	}
	return a.String()
}
