// Package hostport leads ports of the host to pods: one nftables table of its
// own, inet overlay-cni-ports, one element for each port.
//
// Invariants:
//
//   - A host port is there completely or not at all, and has one owner: every
//     change is one nftables transaction, and the kernel refuses an element
//     whose key is taken.
//   - Nobody overwrites what another process did. Whatever was decided by
//     looking first (a deletion, a repair) is bound to the generation of the
//     rules that was seen, and refused by the kernel if any came after it.
//   - A pod reaches nothing on the host's 127.0.0.0/8, although the kernel is
//     told to route that (see below).
//
// # The table
//
//	map ports4    protocol . port            : pod address . pod port
//	map bound4    protocol . address . port  : pod address . pod port
//	set hairpin4  pod address . pod address
//	set bridges   interface
//
// and the same three with 6. Chains prerouting and output look a connection's
// first packet up, at an address of the host only; a port of one address goes
// before the same port of all. How long that takes, and adding and deleting,
// does not depend on how many ports there are.
//
// Two kinds of callers get the bridge's address, because the pod could not
// answer them: the pod itself (its packets would come back with its own
// address, hence the set hairpin), and 127.0.0.0/8. All others keep theirs.
//
// # Localhost
//
// The host reaches ports at 127.0.0.1 because of the sysctl route_localnet of
// the bridge. That alone would let pods in on all that listens there, so chain
// localnet drops what comes from a bridge for 127.0.0.0/8, or as such. A bridge
// is in the set bridges before its sysctl is set, and stays there, as the
// sysctl does. IPv6 has no such thing: what comes from ::1 never leaves the host.
// The table leaves it alone, so that a client that tries ::1 first is refused
// at once and goes on to 127.0.0.1. To ::1 from another address of the host,
// which a client has to ask for, a port leads to its pod.
//
// # Who owns what
//
// The elements belong to the attachments' owners, the plugin's processes, of
// which any number work at once. The table belongs to all of them: whoever
// finds it missing makes it, exclusively. The daemon's own table (package
// firewall) is another one, so that neither has to know the other's.
//
// What the plugin has to do:
//
//   - ADD: write the mappings into the attachment's record first, then Add.
//     An element that no record tells of is a leak. On an error, Delete.
//   - DEL and GC: Delete, before the addresses are released, by which the
//     elements are known. If the record is damaged or lost, DeleteAddresses.
//   - Close last, after the deletion of the veth pair. A netfilter socket that
//     ends after a deletion waits until the kernel has freed what was deleted
//     (20 ms, an RCU grace period), and the veth pair takes that time anyway.
//
// What the daemon has to do at its round: Sync, with a list function that reads
// the records when it is called, not before. Then
//
//   - an element that was seen and has no record is a leak or belongs to a DEL
//     that has just ended. It is deleted, bound to the generation; if the DEL or
//     a new pod changed anything since, Sync begins again.
//   - an element that is missing and has a record is put back. An ADD or DEL in
//     progress holds the attachment's lock; its pod has to be marked Busy, and
//     there has to be another round soon. Else an element could be added right
//     after a DEL looked for it, and outlive its record.
//
// # UDP
//
// The kernel asks the table about the first packet of a flow only, and a UDP
// flow lasts for as long as somebody sends. Add and Delete drop flows that are
// led elsewhere than new ones would be: those to the host itself, and those to
// the pod. That is done for UDP only, because it means a walk through all of
// the kernel's connections: 0.1 ms for IPv4 for each address of the host. For
// IPv6, and before Linux 6.11 for IPv4, they are listed, which takes 11 ms where
// that table has 262,144 places, the default above 4 GiB of memory.
//
// # No library
//
// The package speaks netlink itself, because the plugin's process lives for a
// few milliseconds: see message.go for all that it takes. It also compares what
// the kernel lists with what it was sent, attribute by attribute, so that any
// altered instruction is noticed, known or not.
//
// # Limits
//
// With br_netfilter (net.bridge.bridge-nf-call-iptables=1) a bridge sends what
// is led to one of its pods to that pod's port at once, past the host's IP
// stack. Between isolated ports the kernel drops it there; so a pod reaches the
// host ports of pods on its own bridge only if that sysctl is 0, or if ports
// are not isolated and have hairpin mode.
//
// A process of the host that listens at a port that leads to a pod gets nothing
// there any more; nobody is told.
package hostport
