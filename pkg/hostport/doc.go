// Package hostport leads ports of the host to pods: one nftables table of its
// own, inet overlay-cni-ports, one element for each port.
//
// Invariants:
//
//   - A host port is there completely or not at all, and has one owner: every
//     change is one nftables transaction, and the kernel refuses an element
//     whose key is taken.
//   - Nobody overwrites what another process did. A deletion or repair follows
//     from what was read, so its transaction is bound to the generation of the
//     rules that was read. The kernel refuses the transaction if any rule
//     changed since.
//   - A pod reaches nothing on the host's 127.0.0.0/8, although the kernel is
//     told to route these addresses (see below).
//
// # The table
//
//	map ports4    protocol . port            : pod address . pod port
//	map bound4    protocol . address . port  : pod address . pod port
//	set hairpin4  pod address . pod address
//	set bridges   interface
//
// and the same three with 6. Chains prerouting and output look a connection's
// first packet up, at an address of the host only. A port of one address goes
// before the same port of all. Looking up, adding and deleting take the same time
// for one port as for thousands.
//
// Two kinds of callers get the bridge's address, because the pod could not
// answer them: the pod itself (its packets would come back with its own
// address, hence the set hairpin), and 127.0.0.0/8. All others keep theirs.
//
// # Localhost
//
// The host reaches ports at 127.0.0.1 because of the sysctl route_localnet of
// the bridge. The sysctl alone would let pods reach all services that listen on
// 127.0.0.0/8, so chain localnet drops packets from a bridge that have such an
// address. A bridge is in the set bridges before its sysctl is set. Both stay.
//
// IPv6 has no such sysctl: packets from ::1 never leave the host. The table
// leaves callers at ::1 alone. So a client that tries ::1 first is refused at
// once and goes on to 127.0.0.1. A client that calls ::1 from another address of
// the host, which it has to ask for, reaches the pod.
//
// # Who owns what
//
// All networks share the table, because a port of the host has one owner,
// whatever network the pod is in.
//
// The elements belong to the attachments' owners, the plugin's processes, of
// which any number work at once. The table belongs to all of them: whoever
// misses it makes it. The daemon's own table (package firewall) is another one,
// so that neither has to know the other's.
//
// The plugin has to call:
//
//   - Add in ADD, after it wrote the mappings into the attachment's record. An
//     element that no record has is a leak. After an error, Delete.
//   - Delete in DEL and GC, before it releases the addresses, by which the
//     elements are known. If the record is damaged or lost, DeleteAddresses.
//   - Close last, after it deleted the veth pair. After a deletion a netfilter
//     socket's close waits for an RCU grace period (20 ms), and the deletion of
//     the veth pair waits for the same one.
//
// The daemon has to call Sync in its rounds, with a list function that reads
// the records when it is called, not before. Then
//
//   - an element that was read and has no record is a leak, or belongs to a DEL
//     that has just ended. Sync deletes it, bound to the generation. If the DEL or
//     a new pod changed anything since, Sync begins again.
//   - an element that is missing and has a record is put back. An ADD or DEL in
//     progress holds the attachment's lock; its pod has to be marked Busy, and
//     there has to be another round soon. Otherwise Sync could add an element
//     right after a DEL looked for it, and the element would outlive its record.
//
// # UDP
//
// The kernel asks the table about the first packet of a flow only, and a UDP
// flow lasts for as long as somebody sends. Add, Delete and Sync delete the flows
// that new ones would not follow: those to the host itself, and those to the pod
// (package conntrack says how long this takes).
//
// # Limits
//
// With br_netfilter (net.bridge.bridge-nf-call-iptables=1) a bridge sends
// packets that are led to one of its pods to that pod's port at once, past the
// host's IP stack. Between isolated ports the kernel drops them there. So a pod
// reaches the host ports of pods on its own bridge only if that sysctl is 0, or if
// ports are not isolated and have hairpin mode.
//
// A process of the host that listens at a port that leads to a pod gets nothing
// there any more. Nobody is told.
package hostport
