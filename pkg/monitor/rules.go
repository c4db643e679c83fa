package monitor

import (
	"context"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/nl"
)

// Table identifies a table of nf_tables.
type Table struct {
	Family uint8 // NFPROTO_INET, ...
	Name   string
}

// WatchRules is Watch for nf_tables. It reports the changes within tables and
// ignores other tables: kube-proxy alone changes its own with every Service.
func WatchRules(ctx context.Context, tables map[Table]Change, changed func(Change)) error {
	s, err := nl.Subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		return err
	}
	concerns := func() (c Change, err error) {
		err = s.Drain(func(m nl.Message) error {
			c |= tables[tableOf(m)]
			return nil
		})
		return c, err
	}
	return follow(ctx, subscription{s, concerns}, changed)
}

// tableOf returns the table that a message is about. The name is the first
// attribute of tables, chains, rules, sets and elements alike (NFTA_TABLE_NAME,
// NFTA_CHAIN_TABLE, ... in linux/netfilter/nf_tables.h).
func tableOf(m nl.Message) Table {
	const header = 4 // struct nfgenmsg, of which the first byte is the family
	if len(m.Body) < header {
		return Table{}
	}
	return Table{Family: m.Body[0], Name: m.Attrs(header).Get(unix.NFTA_TABLE_NAME).Text()}
}
