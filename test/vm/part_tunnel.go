package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// offload checks the checksums of packets in the tunnel: data must arrive intact
// whether the kernel or the virtio device computes them.
func (s *suite) offload() error {
	nodes := s.cluster.nodes[:2]
	for _, state := range []string{"off", "on"} {
		s.check("transmit checksum offload "+state+", 1 MiB by TCP", func(ctx context.Context) (string, error) {
			for _, n := range nodes {
				if err := n.restartDaemon(ctx, "--vxlan-tx-checksum-offload", state); err != nil {
					return "", err
				}
				features, err := n.Run(ctx, "ethtool", "--show-features", tunnel)
				if want := "tx-checksumming: " + state; err == nil && !strings.Contains(features, want) {
					err = fmt.Errorf("%s on %s hasn't %s:\n%s", tunnel, n.name, want, features)
				}
				if err != nil {
					return "", err
				}
			}
			return transfers(ctx, s.a.place, s.b.place)
		})
	}
	return nil
}

// overIPv6 moves the tunnel to the other family.
func (s *suite) overIPv6() error {
	nodes := s.cluster.nodes
	var one, two *pod
	if !s.check("the tunnel moves to IPv6", func(ctx context.Context) (detail string, err error) {
		if err := s.cluster.register(ctx, nodes, netip.Addr.Is6); err != nil {
			return "", err
		}
		for _, n := range nodes {
			if err := n.tunnelsFrom(ctx, n.addresses[1]); err != nil {
				return "", err
			}
		}
		if one, err = nodes[0].addPod(ctx, "one6", nil); err != nil {
			return "", err
		}
		two, err = nodes[1].addPod(ctx, "two6", nil)
		return "", err
	}) {
		return nil
	}
	s.reaches("pod to pod over IPv6", one.place, two.place, one.addresses)
	s.check("MTU edge over IPv6, both ways", func(ctx context.Context) (string, error) { return edge(ctx, one, two, podMTU6) })
	s.check("1 MiB by TCP over IPv6", func(ctx context.Context) (string, error) { return transfers(ctx, one.place, two.place) })
	s.check("and back to IPv4", func(ctx context.Context) (string, error) {
		if err := s.cluster.register(ctx, nodes, anyFamily); err != nil {
			return "", err
		}
		for _, n := range nodes {
			if err := n.tunnelsFrom(ctx, n.addresses[0]); err != nil {
				return "", err
			}
		}
		if err := errors.Join(one.remove(ctx), two.remove(ctx)); err != nil {
			return "", err
		}
		return reach(ctx, s.a.place, s.b.place)
	})
	return nil
}

// tunnelsFrom waits until a node's tunnel uses the address.
func (n *node) tunnelsFrom(ctx context.Context, address netip.Addr) error {
	return eventually(ctx, func() error {
		device, err := n.Run(ctx, "ip", "-details", "link", "show", "dev", tunnel)
		if err == nil && !strings.Contains(device, " local "+address.String()+" ") {
			err = fmt.Errorf("the tunnel of %s is not from %s: %s", n.name, address, device)
		}
		return err
	})
}
