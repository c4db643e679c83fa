// Package hostport leads ports of the host to pods. It keeps an nftables table of its
// own, inet overlay-cni-ports, with one element for each port.
//
// Invariants:
//
//   - A host port exists completely or not at all, because every change is one
//     nftables transaction. It has one owner, because the kernel refuses an element
//     whose key is taken.
//   - Nobody overwrites what another process did. A deletion or repair follows
//     from what was read, so its transaction is bound to the generation of the
//     rules that was read. The kernel refuses the transaction if any rule
//     changed since.
//   - Nobody but the host itself reaches anything on its 127.0.0.0/8, although the
//     kernel is told to route these addresses (see below).
//
// # The table
//
//	map ports4    protocol . port            : pod address . pod port
//	map bound4    protocol . address . port  : pod address . pod port
//	set hairpin4  pod address . pod address
//	set bridges   interface
//
// For IPv6 there are ports6, bound6 and hairpin6. The chains prerouting and output look
// up the first packet of each connection to an address of the host. A mapping for one
// address wins over a mapping of the same port for all addresses. Lookups, additions
// and deletions take the same time for one port as for thousands.
//
// Two kinds of callers get the bridge's address, because the pod could not
// answer them: the pod itself (its packets would come back with its own
// address, hence the set hairpin), and 127.0.0.0/8. All others keep theirs.
//
// # Localhost
//
// The host reaches ports at 127.0.0.1 because of the sysctl route_localnet of
// the bridge. The sysctl alone would let pods reach all services that listen on
// 127.0.0.0/8. The translation of addresses alone would let every neighbour reach the
// host ports of 127.0.0.1, since it comes before the kernel's own check. So chain
// localnet drops packets that have such an address and come by another interface
// than lo. A bridge is in the set bridges before its sysctl is set. The sysctl and the
// element stay when the last port is closed.
//
// IPv6 has no such sysctl: packets from ::1 never leave the host. So the rules exempt
// callers from ::1. A client that tries ::1 first is refused at once and goes on to
// 127.0.0.1. A client that binds another address of the host and calls ::1 reaches the
// pod.
//
// # Who owns what
//
// All networks share the table, because a port of the host has one owner,
// whatever network the pod is in.
//
// The elements belong to the plugin's processes, any number of which work at once. The
// table belongs to all of them: a process that finds no table makes it. The daemon has
// a table of its own (package firewall), so plugin and daemon don't depend on each
// other's rules.
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
// flow lasts for as long as somebody sends. So Add, Delete and Sync delete the flows
// that go elsewhere than new flows would: flows to the host itself when a port is
// opened, and flows to the pod when it is closed (package conntrack says how long this
// takes).
//
// # Limits
//
// With br_netfilter (net.bridge.bridge-nf-call-iptables=1), if a pod calls a host port
// of a pod on the same bridge, the bridge forwards the packets directly to that pod's
// port, without the host's IP stack. The kernel drops packets between isolated ports.
// So a pod reaches the host ports of pods on its own bridge only if this sysctl is 0,
// or if the bridge's ports are not isolated and have hairpin mode.
//
// If a process of the host listens on a port that leads to a pod, the process gets no
// new connections. Nothing reports this.
package hostport
