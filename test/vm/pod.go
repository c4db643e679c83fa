package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/overlay-cni/overlay-cni/test/vm/internal/guest"
)

// place is where packets come from and go to: a pod, a node, or the world.
type place struct {
	*guest.Client
	name      string
	netns     string
	addresses []netip.Addr // one of each family
}

func (n *node) place() place { return place{n.Client, n.name, "", n.addresses} }

// serve starts servers for all probes.
func (p place) serve(ctx context.Context) error {
	return p.Serve(ctx, p.servers())
}

func (p place) servers() guest.Servers {
	return guest.Servers{Netns: p.netns, Addresses: p.addresses}
}

// pod is a network namespace that the plugin has connected. It serves all
// probes.
type pod struct {
	place
	node   *node
	config []byte
}

// capabilities are what a runtime passes for one pod.
type capabilities map[string]any

// Host ports that lead to the servers of a pod.
const (
	tcpHostPort  = 8080
	udpHostPort  = 8053
	sctpHostPort = 3868
)

var (
	tcpPort  = map[string]any{"hostPort": tcpHostPort, "containerPort": guest.MirrorPort, "protocol": "tcp"}
	udpPort  = map[string]any{"hostPort": udpHostPort, "containerPort": guest.EchoPort, "protocol": "udp"}
	sctpPort = map[string]any{"hostPort": sctpHostPort, "containerPort": guest.MirrorPort, "protocol": "sctp"}
)

// Limits that no check comes near, in bits (a second).
var (
	ingressLimit = map[string]any{"ingressRate": 1e9, "ingressBurst": 1e9}
	egressLimit  = map[string]any{"egressRate": 1e9, "egressBurst": 1e9}
)

// addPod makes a pod as a container runtime does. It returns a failed pod too,
// which must be removed.
func (n *node) addPod(ctx context.Context, name string, c capabilities) (*pod, error) {
	p := &pod{place: place{Client: n.Client, name: n.name + "/" + name, netns: name}, node: n}
	var err error
	if p.config, err = config(c); err != nil {
		return p, err
	}
	for _, command := range [][]string{
		{"ip", "netns", "add", name},
		{"ip", "-n", name, "link", "set", "lo", "up"},
	} {
		if _, err := n.Run(ctx, command...); err != nil {
			return p, err
		}
	}
	if err := p.add(ctx); err != nil {
		return p, err
	}
	return p, p.serve(ctx)
}

// config is the plugin's configuration, as a runtime makes it of
// conf/10-overlay.conflist.
func config(c capabilities) ([]byte, error) {
	return json.Marshal(map[string]any{
		"cniVersion": "1.0.0", "name": "overlay", "type": "overlay-cni", "runDir": runDir, "runtimeConfig": c,
	})
}

func (p *pod) add(ctx context.Context) error {
	text, err := p.plugin(ctx, "ADD")
	if err != nil {
		return err
	}
	var result types100.Result
	if err := json.Unmarshal(text, &result); err != nil {
		return fmt.Errorf("CNI result of %s, %q: %w", p.name, text, err)
	}
	for _, ip := range result.IPs {
		a, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return fmt.Errorf("CNI result of %s has address %q", p.name, ip.Address)
		}
		p.addresses = append(p.addresses, a.Unmap())
	}
	return nil
}

// plugin runs the plugin and returns what it printed.
func (p *pod) plugin(ctx context.Context, command string) ([]byte, error) {
	out, err := p.Exec(ctx, guest.Command{
		Args: []string{pluginPath},
		Env: []string{
			"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + p.netns, "CNI_NETNS=/run/netns/" + p.netns, "CNI_IFNAME=eth0",
			"CNI_PATH=/opt/cni/bin", "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=vm;K8S_POD_NAME=" + p.netns,
		},
		Stdin: p.config,
	})
	if err == nil && out.Code != 0 {
		err = fmt.Errorf("exit code %d: %s%s", out.Code, out.Stdout, out.Stderr)
	}
	if err != nil {
		return nil, fmt.Errorf("CNI %s for %s: %w", command, p.name, err)
	}
	return out.Stdout, nil
}

// remove ends a pod as a container runtime does.
func (p *pod) remove(ctx context.Context) error {
	if _, err := p.plugin(ctx, "DEL"); err != nil {
		return err
	}
	_, err := p.Run(ctx, "ip", "netns", "delete", p.netns)
	return err
}
