package main

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
)

// flannelRules writes the rules of flanneld with --ip-masq, as version 0.27 does
// (pkg/trafficmngr/iptables): two chains, and jumps to them.
func (s *stage) flannelRules(host int) error {
	if _, err := exec.LookPath(s.iptablesRestore); err != nil {
		return fmt.Errorf("not installed: %w (Debian: apt-get install iptables)", err)
	}
	cmd := exec.Command(s.iptablesRestore)
	cmd.Stdin = strings.NewReader(flannelTables(s.addressing.pods, s.subnets[host], s.multicast))
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := s.hosts[host].Netns().Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", s.iptablesRestore, err, strings.TrimSpace(out.String()))
	}
	return nil
}

// flannelTables is the input of iptables-restore, for a network and a host's subnet
// of it.
func flannelTables(network, own netip.Prefix, multicast string) string {
	const (
		masq    = `-m comment --comment "flanneld masq"`
		forward = `-m comment --comment "flanneld forward"`
	)
	return strings.NewReplacer("{network}", network.String(), "{own}", own.String(), "{multicast}", multicast, "{masq}", masq, "{forward}", forward).Replace(
		`*nat
:FLANNEL-POSTRTG -
-A POSTROUTING {masq} -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 {masq} -j RETURN
-A FLANNEL-POSTRTG -s {own} -d {network} {masq} -j RETURN
-A FLANNEL-POSTRTG -s {network} -d {own} {masq} -j RETURN
-A FLANNEL-POSTRTG ! -s {network} -d {own} {masq} -j RETURN
-A FLANNEL-POSTRTG -s {network} ! -d {multicast} {masq} -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s {network} -d {network} {masq} -j MASQUERADE --random-fully
COMMIT
*filter
:FLANNEL-FWD -
-A FORWARD {forward} -j FLANNEL-FWD
-A FLANNEL-FWD -s {network} {forward} -j ACCEPT
-A FLANNEL-FWD -d {network} {forward} -j ACCEPT
COMMIT
`)
}
