package monitor

import (
	"context"

	"golang.org/x/sys/unix"
)

// Table is one of nftables.
type Table struct {
	Family uint8 // NFPROTO_INET, ...
	Name   string
}

// WatchRules is Watch for nftables, as far as they are in tables. Others are
// left out: kube-proxy alone changes its own with every Service.
func WatchRules(ctx context.Context, tables map[Table]Change, changed func(Change)) error {
	return follow(ctx, subscription{
		name: "netfilter", protocol: unix.NETLINK_NETFILTER, groups: []uint{unix.NFNLGRP_NFTABLES},
		concerns: func(_ uint16, payload []byte) Change { return tables[tableOf(payload)] },
	}, changed)
}

// tableOf reads which table a message is about. The name is the first attribute
// of tables, chains, rules, sets and elements alike (NFTA_TABLE_NAME,
// NFTA_CHAIN_TABLE, ... in linux/netfilter/nf_tables.h).
func tableOf(payload []byte) Table {
	const header = 4 // struct nfgenmsg, of which the first byte is the family
	if len(payload) < header {
		return Table{}
	}
	name, _ := attribute(payload, header, unix.NFTA_TABLE_NAME)
	return Table{Family: payload[0], Name: unix.ByteSliceToString(name)}
}
