// Package rtnl encodes and decodes messages of route netlink (rtnetlink) and
// exchanges them by internal/nl.
//
// A Batch sends many operations in one system call, each with a result of its
// own. ADD needs that, and so does programming three entries for each of
// thousands of peers. With a library that makes a round trip for each operation,
// and looks up each link after creating it, the round trips would take most of
// the time.
//
// Netlink headers and integers are in the host's byte order. Attributes that
// hold an address, port or protocol are in network byte order. Source:
// linux/rtnetlink.h and linux/if_link.h of the kernel.
package rtnl
