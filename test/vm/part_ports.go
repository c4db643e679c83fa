package main

import (
	"context"
	"errors"
	"net/netip"
)

// portProbe connects to a pod by a host port of the machine with address to.
type portProbe func(ctx context.Context, from place, to netip.Addr, seen []netip.Addr) error

func byTCP(ctx context.Context, from place, to netip.Addr, seen []netip.Addr) error {
	return from.connect(ctx, netip.AddrPortFrom(to, tcpHostPort), seen)
}

func byUDP(ctx context.Context, from place, to netip.Addr, _ []netip.Addr) error {
	return from.fits(ctx, netip.AddrPortFrom(to, udpHostPort), small)
}

func bySCTP(ctx context.Context, from place, to netip.Addr, seen []netip.Addr) error {
	return from.associate(ctx, netip.AddrPortFrom(to, sctpHostPort), seen)
}

// The outside runs on this machine's own kernel, which may lack SCTP.
var (
	allProbes   = []portProbe{byTCP, byUDP, bySCTP}
	worldProbes = []portProbe{byTCP, byUDP}
)

// hostPorts checks host ports from all sides.
func (s *suite) hostPorts() error {
	first, second := s.cluster.nodes[0], s.cluster.nodes[1]
	var web *pod
	if !s.check("a pod with host ports", func(ctx context.Context) (detail string, err error) {
		web, err = first.addPod(ctx, "web", capabilities{"portMappings": []any{tcpPort, udpPort, sctpPort}})
		if err != nil {
			return "", err
		}
		return "", errors.Join(web.ServeSCTP(ctx, web.servers()), first.has(ctx, "nft_fib_inet"))
	}) {
		return nil
	}
	for _, way := range []struct {
		name   string
		from   place
		to     []netip.Addr
		seen   []netip.Addr
		probes []portProbe
	}{
		{"the outside", s.cluster.world, first.addresses, []netip.Addr{router[0].Addr(), router[1].Addr()}, worldProbes},
		{"another machine", second.place(), first.addresses, second.addresses, allProbes},
		{"another machine's pod", s.b.place, first.addresses, second.addresses, allProbes},
		{"the machine itself", first.place(), first.addresses, anybody, allProbes},
		{"the machine itself, over loopback", first.place(), []netip.Addr{netip.MustParseAddr("127.0.0.1")}, anybody, allProbes},
		{"a pod of the machine", s.a.place, first.addresses, s.a.addresses, allProbes},
		{"the pod itself", web.place, first.addresses, anybody, allProbes},
	} {
		s.check("host ports from "+way.name, func(ctx context.Context) (string, error) {
			var errs []error
			for _, a := range way.to {
				for _, ask := range way.probes {
					errs = append(errs, ask(ctx, way.from, a, way.seen))
				}
			}
			return "", errors.Join(errs...)
		})
	}
	s.check("host ports end with their pod", func(ctx context.Context) (string, error) {
		if err := web.remove(ctx); err != nil {
			return "", err
		}
		a := first.addresses[0]
		return "", errors.Join(
			failsWith("refused", byTCP(ctx, first.place(), a, anybody)),
			failsWith("refused", bySCTP(ctx, first.place(), a, anybody)),
		)
	})
	return nil
}
