// Package iptables keeps what has to be said in iptables: rules that let pods'
// traffic through where the host's own rules would drop it, and masquerading on
// kernels without nf_tables.
//
// Invariants:
//
//   - After a Sync without error our chains and the jumps to them are the
//     desired ones. Each place is changed in one transaction: no packet meets a
//     chain that is half filled, or no jump while it is moved.
//   - Rules of other programs are never changed, and go before ours: what
//     accepts pods' traffic only sees what they left.
//   - A host that has no iptables gets none: no table is made, no module loaded
//     and no program run just by looking. (Instead, for kernels without
//     nf_tables, does make tables.)
//
// # Why at all
//
// Package firewall's table can't help where iptables' FORWARD drops a packet: an
// accept in one table doesn't protect from a drop in another. dockerd sets the
// policy of FORWARD to DROP where it turned forwarding on itself; ufw does so
// too, and other firewalls end the chain with a REJECT.
//
//	FORWARD (filter)      -> OVERLAY-CNI-FWD      pods' traffic is accepted
//	POSTROUTING (nat)     -> OVERLAY-CNI-POSTRTG  what leaves the pod network is masqueraded
//	OUTPUT (filter)       -> OVERLAY-CNI-OUTPUT   pods get no redirects
//
// The first is put wherever there is a table filter, whatever its rules are: a
// program that sets a policy later finds pods' traffic accepted already, so
// not one packet is lost.
//
// # Where the jump stands
//
// At the end of FORWARD, so that network policy and all other rules are heeded,
// whenever they came; but before the first rule that drops, rejects or accepts
// every packet, because nothing gets behind it. A program that also insists on
// being last would have its rules and ours change places for ever; none is
// known to. The rule against redirects stands first, and may stand anywhere.
//
// # Two kinds of iptables
//
// A kernel can have both at once, and a packet meets both. Both are kept.
//
//   - iptables-nft's tables are tables of nf_tables. They are read and changed
//     over netlink, without a program, which a container image may not have.
//     The rules are made of the instructions that iptables-nft 1.8 makes, so
//     iptables lists, saves and edits them like its own.
//   - iptables-legacy's can be changed as a whole only, in a format in which
//     every match has its own. Here the program is needed: it lists by
//     go-iptables, and makes a change by one iptables-restore. Whether there is
//     anything to do is found out by system calls. A process waits up to 5 s
//     for the lock in /run/xtables.lock; in a container, that file has to be
//     the host's.
//
// # Noticing changes
//
// nf_tables tells by netlink. ip_tables tells nobody: Fingerprint is to be asked
// every second or so. It takes 0.1 ms, 0.1 ms more where ip_tables has rules.
// Sync itself reads a table again only if it changed, so it may be called often.
//
// # Limits
//
//   - Where a service's port leads to a pod of another host by direct routing,
//     the packets pass neither the bridge nor the tunnel, and are not accepted
//     here. kube-proxy accepts them, but for its mode nftables.
//   - firewalld with nftables drops in a table of its own, which no rule in
//     iptables can prevent: cni0 and overlay0 belong into its zone trusted.
//   - The nftables library leaves out instructions that it doesn't know. A rule
//     of another program made of these alone and a drop would be taken for one
//     that drops every packet.
//   - 64-bit kernels, and 32-bit ones that align to 8 bytes as ARM does.
package iptables
