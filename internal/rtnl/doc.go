// Package rtnl sends route netlink messages in batches: one sendmsg for many
// operations, one answer for each.
//
// The netlink library of the field makes one system call round trip an
// operation and looks created links up again. On the way of ADD, and for the
// three entries of each of thousands of peers, these are most of the cost, so
// the few operations that are needed there are encoded here. Everything else
// (dumps, addresses and links that are touched once) uses the library.
//
// Byte order is the host's for netlink headers and integers, and the network's
// where the attribute holds an address, port or protocol, as linux/rtnetlink.h
// has it.
package rtnl
