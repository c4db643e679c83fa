package vxlan

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// ErrNotOurs is why a device is left alone: somebody else made it.
var ErrNotOurs = errors.New("is not ours")

// refuse reports that the device in have belongs to somebody else. One that is
// as it should be is taken over, since an earlier run may have ended before it
// could set the alias.
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
	if diff := want.Tunnel.differences(have.Tunnel); len(diff) > 0 {
		return fmt.Errorf("vxlan device %q %w: it has not the alias %q, and has %s: "+fix,
			have.Name, ErrNotOurs, want.Alias, strings.Join(diff, ", "), have.Name)
	}
	return nil
}

// differences says in words how have differs from t.
func (t Tunnel) differences(have Tunnel) []string {
	var diff []string
	add := func(differs bool, format string, args ...any) {
		if differs {
			diff = append(diff, fmt.Sprintf(format, args...))
		}
	}
	add(t.VNI != have.VNI, "VNI %d instead of %d", have.VNI, t.VNI)
	add(t.Port != have.Port, "port %d instead of %d", have.Port, t.Port)
	add(t.Local != have.Local, "local address %s instead of %s", orNone(have.Local), t.Local)
	add(t.Underlay != have.Underlay, "underlay interface %d instead of %d", have.Underlay, t.Underlay)
	add(t.Learning != have.Learning, "learning on instead of off")
	add(t.SourcePorts != have.SourcePorts, "source ports %s instead of %s", have.SourcePorts, t.SourcePorts)
	add(t.ZeroChecksum != have.ZeroChecksum, "zero UDP checksums sent: %t instead of %t", have.ZeroChecksum, t.ZeroChecksum)
	add(t.AcceptZeroChecksum != have.AcceptZeroChecksum, "zero UDP checksums accepted: %t instead of %t", have.AcceptZeroChecksum, t.AcceptZeroChecksum)
	add(t.TTL != have.TTL, "TTL %s instead of %s", have.TTL, t.TTL)
	add(t.DF != have.DF, "DF %s instead of %s", have.DF, t.DF)
	add(t.More != have.More, "further options%s", have.More)
	return diff
}

func orNone(a netip.Addr) string {
	if !a.IsValid() {
		return "none"
	}
	return a.String()
}
