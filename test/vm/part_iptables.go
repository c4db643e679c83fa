package main

import (
	"context"
	"errors"
)

// withoutNFTables adds a node whose kernel has no nf_tables.
func (s *suite) withoutNFTables() error {
	n, first := s.cluster.nodes[2], s.cluster.nodes[0]
	missing := []string{"nf_tables"}
	if err := s.must("a machine without nf_tables joins", func(ctx context.Context) (string, error) {
		return "", errors.Join(
			n.withhold(ctx, append(missing, "iptable_nat", "ip6table_nat")...),
			s.cluster.register(ctx, s.cluster.nodes, anyFamily))
	}); err != nil {
		return err
	}
	s.check("overlayd --firewall nftables names nf_tables", func(ctx context.Context) (string, error) {
		return "", errors.Join(n.launch(ctx, "--firewall", "nftables"), n.complains(ctx, "lacks nf_tables"))
	})
	s.check("overlayd --firewall iptables names iptable_nat", func(ctx context.Context) (string, error) {
		return "", errors.Join(n.stopDaemon(ctx), n.launch(ctx, "--firewall", "iptables"), n.complains(ctx, "iptable_nat"))
	})
	if err := s.must("overlayd uses iptables by itself", func(ctx context.Context) (string, error) {
		if err := errors.Join(n.withhold(ctx, missing...), n.restartDaemon(ctx)); err != nil {
			return "", err
		}
		_, err := n.Run(ctx, "iptables-legacy", "-t", "nat", "-S", "OVERLAY-CNI-POSTRTG")
		return "", errors.Join(err, n.has(ctx, "iptable_nat", "ip6table_nat"), n.lacks(ctx, missing...))
	}); err != nil {
		return err
	}
	var c *pod
	if err := s.must("a pod there", func(ctx context.Context) (detail string, err error) {
		c, err = n.addPod(ctx, "c", nil)
		return "", err
	}); err != nil {
		return err
	}
	s.reaches("pod to pod, from there", c.place, s.a.place, c.addresses)
	s.reaches("pod to pod, to there", s.b.place, c.place, s.b.addresses)
	s.reaches("pod to another machine, masqueraded by iptables", c.place, first.place(), n.addresses)
	s.reaches("pod to the outside, masqueraded by iptables", c.place, s.cluster.world, n.addresses)
	s.check("MTU edge, both ways", func(ctx context.Context) (string, error) { return edge(ctx, s.a, c, podMTU) })
	s.check("a host port there names nf_tables", func(ctx context.Context) (string, error) {
		p, err := n.addPod(ctx, "ports", capabilities{"portMappings": []any{tcpPort}})
		if err := failsWith("lacks nf_tables", err); err != nil {
			return "", err
		}
		return "", p.remove(ctx)
	})
	return nil
}
