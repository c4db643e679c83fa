// Package guard lets a pod's port send only what is the pod's own: its MAC address,
// its IP addresses, and what ARP and neighbour discovery may say of them. It keeps an
// nftables table of its own, bridge overlay-cni-guard, with a few elements for each
// pod.
//
// Invariants:
//
//   - The table sees a frame before the bridge does: before the bridge learns the
//     frame's source address, and before br_netfilter takes the packet (see
//     rtnl.Port.Hooked for the frames that would get past it).
//   - A frame from a guarded port passes only if a rule accepts it. What the rules
//     can't read is dropped.
//   - A frame from any other port passes. Other programs' ports on the bridge, and
//     pods that are exempt, are none of this table's business.
//
// # The table
//
//	set ports       interface                  guarded ports
//	set own         interface . MAC address    of the pod behind the port
//	set macs        MAC address                all that belong to a pod or to a bridge
//	set sources4    interface . IPv4 address   of the pod
//	set sources6    interface . IPv6 address   of the pod, its link-local one too
//	set linklocals  IPv6 address               all that belong to a pod or to a bridge
//
// A usual packet of a pod costs two lookups: in own and in sources.
//
// # What passes
//
//   - IP addresses of packets, senders of ARP and targets of neighbour
//     advertisements: the pod's own alone. ARP probes (sender 0.0.0.0) and duplicate
//     address detection (source ::) pass, as long as the address asked for may be the
//     pod's.
//   - MAC addresses, of the frame and in the bodies of ARP and neighbour discovery:
//     the pod's own, or one that belongs to nobody else. The plugin can't know a MAC
//     address that a later plugin of the list sets (tuning), nor one that the pod sets
//     itself. An unknown address takes nothing away from anybody, because addresses
//     in IP, ARP and neighbour discovery are the pod's own.
//   - Link-local IPv6 addresses of fe80::/64: the same, because a pod may use
//     addresses that don't follow from its MAC address (RFC 7217).
//   - Of Ethernet: IPv4, IPv6 and ARP without a VLAN tag.
//   - Never: router advertisements, redirects of both families, and what a DHCP server
//     sends to a client.
//   - Messages of neighbour discovery have no extension headers, and at most one
//     option of 8 bytes, which is enough for the option of a MAC address or a nonce:
//     nftables can't search a list of options.
//
// # Who owns what
//
// The elements belong to the plugin's processes, as in package hostport. The plugin
// calls Add before it makes the pod's port, because interface names may be in sets
// before there is an interface, and Delete in DEL and GC. The daemon calls Sync in its
// rounds. Elements of a port without a usable record stay for as long as the port
// exists.
//
// All networks share the table.
package guard
