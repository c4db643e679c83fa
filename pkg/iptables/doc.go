// Package iptables accepts pods' traffic where the host's iptables would drop it.
//
// Invariants:
//
//   - After a Sync without error our chains and the jumps to them are the
//     desired ones. Each table is changed in one transaction: no packet meets a
//     chain that is half filled, or FORWARD without the jump.
//   - Other programs' rules are never changed and come before ours, so ours only
//     accept what they left.
//   - Reading changes nothing: on a host without iptables, Sync makes no table, loads
//     no module and runs no program.
//
// # Why
//
// An accept in package firewall's table does not protect a packet from a drop in
// another table. dockerd and ufw set the policy of FORWARD to DROP; other
// firewalls end the chain with a REJECT. So wherever there is a table filter,
// FORWARD jumps to a chain of ours, OVERLAY-CNI-FWD, that accepts pods' traffic.
// The chain is there whatever the rules are: when a program sets the policy
// later, not one packet is lost.
//
// # Where the jump stands
//
// The jump is the last rule of FORWARD, so that network policy and all other rules
// apply first, no matter when they were added. But it is before the first rule that
// drops, rejects or accepts every packet, because no packet reaches a rule behind
// that one. Another program that also wants the last place would move its rule behind
// ours for ever, and we ours; no such program is known.
//
// # Two kinds of iptables
//
// A kernel can have both at once, and a packet meets both. Both are kept.
//
//   - iptables-nft's tables are tables of nf_tables. They are read and changed
//     over netlink, without a program, because a container image may have none.
//     Our rules consist of the instructions that iptables-nft 1.8 makes, so
//     iptables lists, saves and edits them like its own.
//   - iptables-legacy's tables can only be changed as a whole, in a format in
//     which every match has its own form. So the program is needed: go-iptables
//     finds it and lists rules, and one iptables-restore makes a change. The
//     program waits up to 5 s for the lock /run/xtables.lock; in a container that
//     file has to be the host's. Where the program is missing, two system calls
//     tell whether FORWARD drops, and Sync returns ErrNoProgram.
//
// # Noticing changes
//
// nf_tables sends notifications by netlink. ip_tables sends none, so Watch polls
// the numbers and sizes of its rules, and whether FORWARD drops, every second.
//
// # Limits
//
//   - Where direct routing leads a Service's port to another host's pod, the
//     packets pass neither the bridge nor the tunnel, and our rules don't accept
//     them. kube-proxy accepts them, except in its mode nftables.
//   - firewalld with nftables drops packets in a table of its own, which no rule in
//     iptables can prevent: put cni0 and overlay0 into its zone trusted.
//   - The kernel must be a 64-bit one, or a 32-bit one that aligns 64-bit values to 8
//     bytes, as ARM does.
package iptables
