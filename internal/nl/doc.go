// Package nl is the netlink transport of the project. It sends requests to the
// kernel in batches, reads lists, and receives notifications.
//
// The netlink libraries of the field make one round trip for each operation.
// ADD, the entries of thousands of peers and nf_tables transactions need many
// operations in one system call. The packages that need such batches encode
// their own messages on top of this package: internal/rtnl for route netlink
// and internal/nft for nf_tables. Everything else uses the libraries.
//
// A result belongs to its operation: a Request that may find its work done
// says so itself (Request.Tolerate), and holds its own error afterwards.
//
// Netlink headers are in the host's byte order. Attributes are in the byte
// order that their protocol defines, so the methods that encode and decode
// numbers in network byte order have BE (big-endian) in their names.
//
// Source: linux/netlink.h and net/netlink/af_netlink.c of the kernel.
package nl
