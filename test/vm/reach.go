package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/test/vm/internal/guest"
)

// target describes a probe from here.
func (p place) target(to netip.Addr, port uint16) guest.Target {
	return guest.Target{From: p.netns, To: netip.AddrPortFrom(to, port)}
}

// small is the size of a packet that fits everywhere, in bytes.
const small = 100

// reach tries every protocol to every address. The other side must see this
// side's own address of the same family.
func reach(ctx context.Context, from, to place) (string, error) {
	return reachAs(ctx, from, to, from.addresses)
}

// reachAs is reach for a source that the other side sees under other addresses.
func reachAs(ctx context.Context, from, to place, seen []netip.Addr) (string, error) {
	var details []string
	for _, a := range to.addresses {
		rtt, err := from.Ping(ctx, from.target(a, 0))
		if err != nil {
			return "", err
		}
		if err := from.fits(ctx, netip.AddrPortFrom(a, guest.EchoPort), small); err != nil {
			return "", err
		}
		if err := from.connect(ctx, netip.AddrPortFrom(a, guest.MirrorPort), seen); err != nil {
			return "", err
		}
		details = append(details, fmt.Sprintf("ping %s %.1f ms", family.Of(a), float64(rtt.Microseconds())/1000))
	}
	if len(details) == 0 {
		return "", fmt.Errorf("%s has no address", to.name)
	}
	return strings.Join(details, ", "), nil
}

// anybody stands for addresses that don't matter.
var anybody []netip.Addr

// connect connects by TCP to a mirror, which must see one of the addresses.
func (p place) connect(ctx context.Context, to netip.AddrPort, seen []netip.Addr) error {
	source, err := p.Connect(ctx, guest.Target{From: p.netns, To: to})
	if err != nil {
		return err
	}
	return p.seenAs(source, to, seen)
}

// associate is connect by SCTP.
func (p place) associate(ctx context.Context, to netip.AddrPort, seen []netip.Addr) error {
	source, err := p.ConnectSCTP(ctx, guest.Target{From: p.netns, To: to})
	if err != nil {
		return err
	}
	return p.seenAs(source, to, seen)
}

// seenAs fails if the mirror at to sees another address than one of seen.
func (p place) seenAs(source netip.Addr, to netip.AddrPort, seen []netip.Addr) error {
	if len(seen) > 0 && !slices.Contains(seen, source) {
		return fmt.Errorf("%s sees %s as %s, not as one of %s", to, p.name, source, seen)
	}
	return nil
}

// fits sends a packet of size bytes, which must come back unfragmented.
func (p place) fits(ctx context.Context, to netip.AddrPort, size int) error {
	refused, err := p.Echo(ctx, guest.Target{From: p.netns, To: to, Size: size})
	if refused != "" {
		err = errors.New(refused)
	}
	if err != nil {
		return fmt.Errorf("%d bytes by UDP from %s to %s: %w", size, p.name, to, err)
	}
	return nil
}

// tooLarge sends a packet of a size that the sender's own kernel must refuse.
func (p place) tooLarge(ctx context.Context, to netip.AddrPort, size int) error {
	refused, err := p.Echo(ctx, guest.Target{From: p.netns, To: to, Size: size})
	if err == nil && refused == "" {
		err = errors.New("it passed")
	}
	if err != nil {
		return fmt.Errorf("%d bytes by UDP from %s to %s, which should be too large: %w", size, p.name, to, err)
	}
	return nil
}

// failsWith returns nil if err is an error whose text contains says.
func failsWith(says string, err error) error {
	switch {
	case err == nil:
		return fmt.Errorf("it succeeded, but should have failed with %q", says)
	case !strings.Contains(err.Error(), says):
		return fmt.Errorf("%w, which doesn't say %q", err, says)
	}
	return nil
}

// edge sends packets of the MTU and one byte more, in both directions and families.
// That a packet arrives is not enough: the nodes could have fragmented it.
func edge(ctx context.Context, a, b *pod, mtu int) (string, error) {
	before, err := fragments(ctx, a.node, b.node)
	if err != nil {
		return "", err
	}
	for _, way := range [][2]*pod{{a, b}, {b, a}} {
		for _, a := range way[1].addresses {
			to := netip.AddrPortFrom(a, guest.EchoPort)
			if err := errors.Join(way[0].fits(ctx, to, mtu), way[0].tooLarge(ctx, to, mtu+1)); err != nil {
				return "", err
			}
		}
	}
	after, err := fragments(ctx, a.node, b.node)
	if err == nil && after != before {
		err = fmt.Errorf("nodes made fragments: %s, before %s", after, before)
	}
	return fmt.Sprintf("%d bytes pass, %d don't", mtu, mtu+1), err
}

// fragments returns the nodes' counters of fragments, as text.
func fragments(ctx context.Context, nodes ...*node) (string, error) {
	text := ""
	for _, n := range nodes {
		// -a: also those that are zero. The names are those of RFC 4293.
		out, err := n.Run(ctx, "nstat", "-az", "IpFragCreates", "Ip6FragCreates")
		if err != nil {
			return "", err
		}
		text += n.name + " " + strings.Join(strings.Fields(out), " ") + " "
	}
	return text, nil
}

// transferSize is what a transfer sends, in bytes: many packets' worth, so that
// the kernel has a reason to send large ones and leave the rest to the device.
const transferSize = 1 << 20

// transfers sends much by TCP, both ways and by all families.
func transfers(ctx context.Context, a, b place) (string, error) {
	var details []string
	for _, way := range [][2]place{{a, b}, {b, a}} {
		for _, to := range way[1].addresses {
			t := way[0].target(to, guest.DigestPort)
			t.Size = transferSize
			took, err := way[0].Transfer(ctx, t)
			if err != nil {
				return "", fmt.Errorf("%d bytes by TCP from %s to %s: %w", t.Size, way[0].name, to, err)
			}
			details = append(details, fmt.Sprintf("%.1f", float64(t.Size)*8/1e6/took.Seconds()))
		}
	}
	return strings.Join(details, ", ") + " Mbit/s", nil
}
