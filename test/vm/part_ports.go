package main

import (
	"context"
	"errors"
	"net/netip"
)

// hostPorts is about ports of a machine that lead to a pod.
func (s *suite) hostPorts() error {
	first, second := s.cluster.nodes[0], s.cluster.nodes[1]
	var web *pod
	if !s.check("a pod with host ports", func(ctx context.Context) (detail string, err error) {
		web, err = first.addPod(ctx, "web", capabilities{"portMappings": []any{tcpPort, udpPort}})
		return "", errors.Join(err, first.has(ctx, "nft_fib_inet"))
	}) {
		return nil
	}
	for _, way := range []struct {
		name string
		from place
		to   []netip.Addr
		seen []netip.Addr
	}{
		{"the outside", s.cluster.world, first.addresses, []netip.Addr{router[0].Addr(), router[1].Addr()}},
		{"another machine", second.place(), first.addresses, second.addresses},
		{"another machine's pod", s.b.place, first.addresses, second.addresses},
		{"the machine itself", first.place(), first.addresses, anybody},
		{"the machine itself, over loopback", first.place(), []netip.Addr{netip.MustParseAddr("127.0.0.1")}, anybody},
		{"a pod of the machine", s.a.place, first.addresses, s.a.addresses},
		{"the pod itself", web.place, first.addresses, anybody},
	} {
		s.check("host ports from "+way.name, func(ctx context.Context) (string, error) {
			var errs []error
			for _, a := range way.to {
				errs = append(errs,
					way.from.connect(ctx, netip.AddrPortFrom(a, tcpHostPort), way.seen),
					way.from.fits(ctx, netip.AddrPortFrom(a, udpHostPort), small))
			}
			return "", errors.Join(errs...)
		})
	}
	s.check("host ports end with their pod", func(ctx context.Context) (string, error) {
		if err := web.remove(ctx); err != nil {
			return "", err
		}
		return "", failsWith("refused", first.place().connect(ctx, netip.AddrPortFrom(first.addresses[0], tcpHostPort), anybody))
	})
	return nil
}
