// Package firewall keeps the project's one nftables table, inet overlay-cni:
// masquerading of what leaves the pod network, and the filter that keeps the
// kernel from telling pods about shortcuts they can't take.
//
// Invariant: after a Sync without error the table in the kernel is the desired
// one, whatever was there before, and nothing outside the table was touched.
// A packet never meets half a table: every Sync is one nftables transaction.
//
// # How it is mended
//
// The table has two parts, compared separately. The skeleton is its flags,
// chains, rules and set definitions; it depends on little (masquerading on or
// off, the bridge's name) and is the same for years. If any of it differs, the
// whole table is deleted and made anew in one transaction; there is no attempt
// at editing rules, because a chain that someone else edited has no known
// meaning. The elements are what the sets hold; they change with every peer,
// and only those that differ are added and deleted.
//
// Connections survive a rebuild: the kernel keeps address translation with the
// connection, and asks the table only about a connection's first packet.
//
// # Who owns what
//
// The table and everything in it belongs to overlayd, which removes what it
// does not know. Whoever wants to filter pods' traffic uses a table of his
// own, which this package never reads or writes.
//
// A set's elements can become another process's while its definition stays
// ours (the plugin's host ports will be such): Plan decides about each part on
// its own, and a Rebuild carries the elements that it is to put back.
//
// # Why the inet family
//
// One table of that family sees IPv4 and IPv6. Two tables, ip and ip6, could
// not be compared and replaced by one description, and would sooner or later
// differ in a rule. Sets have one type of address each, so every family has
// its own; rules differ only in the values of the family type of this package.
// NAT in this family needs Linux 5.2.
//
// # Limits
//
// The library does not decode every expression of the kernel, and drops those
// it does not know. All rules of ours have a comment, which is compared too;
// so a foreign rule is noticed whatever it is made of, and an altered one
// unless its author copied the comment and only added unknown expressions.
// Objects and flowtables that someone puts into the table are not noticed; they
// do nothing unless a rule uses them.
package firewall
