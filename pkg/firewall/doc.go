// Package firewall keeps a network's nftables table, inet overlay-cni:
// masquerading of what leaves the pod network and of what enters the tunnel from
// outside of it, guards of the tunnel, and a filter that keeps the kernel from
// telling pods about shortcuts they can't take.
//
// Invariant: after a Sync without error the table in the kernel is the desired
// one, whatever was there before, and nothing outside the table was touched. A
// packet never meets half a table: every Sync is one nftables transaction.
//
// Desired computes the table as a value. Package nft compares it with the
// kernel's and changes what differs. A further chain, such as a guard or a policy,
// is a few more lines in Desired.
//
// Connections survive every change: the kernel keeps address translation with
// the connection, and asks the table only about a connection's first packet.
//
// # Who owns what
//
// The table and everything in it belongs to overlayd, which removes what it
// does not know. Whoever wants to filter pods' traffic uses a table of their
// own, which this package never reads or writes.
//
// # Why the inet family
//
// One table of that family sees IPv4 and IPv6. Two tables, ip and ip6, would
// sooner or later differ in a rule. Sets have one type of address each, so every
// family has its own. NAT in this family needs Linux 5.2.
package firewall
