// Package iprule keeps pods' traffic in the table main where the host has rules of
// policy routing ("ip rule").
//
// A rule such as "from 192.168.77.1 lookup 100", with a default route in table 100,
// leads the host's answers to its own pods out of the host: a rule comes before the
// table main, and its default route matches pods' addresses, too. So do VPN clients.
// Sync adds rules of its own before the first such rule: for destinations among the
// pod subnets they look the table main up, and ignore its routes that are shorter
// than a pod subnet. So everything else goes where it went before.
//
// Hosts without such rules get none from us: as long as a host has the kernel's three
// rules only, the kernel needs to ask no rule at all.
//
// Rules for marked packets, for sockets bound to an interface and for VRFs stay in
// force for pods, and so do rules that drop: whoever made them, meant these packets.
package iprule
