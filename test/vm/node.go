package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/test/vm/internal/debian"
	"github.com/overlay-cni/overlay-cni/test/vm/internal/guest"
	"github.com/overlay-cni/overlay-cni/test/vm/internal/image"
	"github.com/overlay-cni/overlay-cni/test/vm/internal/qemu"
)

// Where things are in a machine.
const (
	daemonPath = "/usr/local/bin/overlayd"
	daemonName = "overlayd"
	pluginPath = "/opt/cni/bin/overlay-cni"
	nodesFile  = "/etc/overlay-cni/nodes.yaml"
	runDir     = "/run/overlay-cni"
	tunnel     = "overlay0"
	probesAt   = "127.0.0.1:9479"
)

// cluster is all machines.
type cluster struct {
	tree  *debian.Tree
	image image.Image
	wire  *sandbox.Netns
	world place  // the router's side of the wire
	dir   string // for what the machines leave
	nodes []*node
}

// node is a machine, on or off.
type node struct {
	*guest.Client
	name      string
	number    byte
	addresses []netip.Addr   // one of each family
	subnets   []netip.Prefix // one of each family
	vm        *qemu.VM
}

// newNode plans the machine with a number from 1: 192.168.77.1, 10.244.1.0/24.
func newNode(number byte) *node {
	address6 := netip.MustParseAddr("fd00:77::").As16()
	address6[15] = number
	subnet6 := netip.MustParseAddr("fd00:244::").As16()
	subnet6[5] = number
	return &node{
		name:      fmt.Sprintf("node%d", number),
		number:    number,
		addresses: []netip.Addr{netip.AddrFrom4([4]byte{192, 168, 77, number}), netip.AddrFrom16(address6)},
		subnets: []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, number, 0}), 24),
			netip.PrefixFrom(netip.AddrFrom16(subnet6), 64),
		},
	}
}

// boot turns a machine on and gives it its addresses.
func (c *cluster) boot(ctx context.Context, n *node) error {
	vm, err := qemu.Start(qemu.Config{
		Name: n.name, Tree: c.tree, Image: c.image, Wire: c.wire, Bridge: bridgeName,
		MAC:     net.HardwareAddr{0x52, 0x54, 0, 0x77, 0, n.number},
		Console: c.file(n, "console"),
	})
	if err != nil {
		return err
	}
	n.vm, n.Client = vm, guest.Dial(vm.Line)
	if err := n.Hello(ctx); err != nil {
		console, _ := os.ReadFile(c.file(n, "console"))
		return fmt.Errorf("boot %s: %w; its console:\n%s", n.name, err, console)
	}
	return n.configure(ctx)
}

// file is one of what a machine leaves.
func (c *cluster) file(n *node, kind string) string { return filepath.Join(c.dir, n.name+"."+kind) }

func (n *node) configure(ctx context.Context) error {
	commands := [][]string{
		{"busybox", "hostname", n.name},
		{"ip", "link", "set", "lo", "up"},
		{"ip", "link", "set", "eth0", "up"},
	}
	for i, r := range router {
		own := netip.PrefixFrom(n.addresses[i], r.Bits())
		commands = append(commands,
			[]string{"ip", "address", "add", own.String(), "dev", "eth0", "nodad"},
			[]string{"ip", "route", "add", "default", "via", r.Addr().String()},
		)
	}
	for _, c := range commands {
		if _, err := n.Run(ctx, c...); err != nil {
			return fmt.Errorf("configure %s: %w", n.name, err)
		}
	}
	return nil
}

// register writes the nodes file of every machine. Members are in it, with those
// of their addresses that fit.
func (c *cluster) register(ctx context.Context, members []*node, fits func(netip.Addr) bool) error {
	text := nodesText(members, fits)
	return c.each(func(n *node) error { return n.WriteFile(ctx, nodesFile, text) })
}

func nodesText(members []*node, fits func(netip.Addr) bool) string {
	text := strings.Builder{}
	text.WriteString("nodes:\n")
	for _, n := range members {
		var addresses []string
		for _, a := range n.addresses {
			if fits(a) {
				addresses = append(addresses, fmt.Sprintf("%q", a))
			}
		}
		fmt.Fprintf(&text, "- name: %s\n  addresses: [%s]\n  podSubnets: [%q, %q]\n",
			n.name, strings.Join(addresses, ", "), n.subnets[0], n.subnets[1])
	}
	return text.String()
}

// launch starts overlayd, and doesn't wait for it.
func (n *node) launch(ctx context.Context, args ...string) error {
	return n.Start(ctx, append([]string{daemonPath, "run", "--health-address", probesAt}, args...)...)
}

// startDaemon starts overlayd and waits until it says that this node is ready.
func (n *node) startDaemon(ctx context.Context, args ...string) error {
	if err := n.launch(ctx, args...); err != nil {
		return err
	}
	return n.awaitStatus(ctx, http.StatusOK, "")
}

// stopDaemon ends overlayd, which has to end well.
func (n *node) stopDaemon(ctx context.Context) error {
	how, err := n.End(ctx, daemonName, unix.SIGTERM)
	if err == nil && how != "exit status 0" {
		err = fmt.Errorf("overlayd on %s ended with %s", n.name, how)
	}
	return err
}

// restartDaemon starts overlayd anew with other flags.
func (n *node) restartDaemon(ctx context.Context, args ...string) error {
	if err := n.stopDaemon(ctx); err != nil {
		return err
	}
	return n.startDaemon(ctx, args...)
}

// awaitStatus waits until overlayd's health probe answers with the HTTP status and
// a text that contains says.
func (n *node) awaitStatus(ctx context.Context, status int, says string) error {
	return eventually(ctx, func() error {
		a, err := n.Get(ctx, "http://"+probesAt+"/readyz")
		if err == nil && (a.Status != status || !strings.Contains(a.Text, says)) {
			err = fmt.Errorf("overlayd on %s says %d and %q, not %d and %q", n.name, a.Status, a.Text, status, says)
		}
		return err
	})
}

// lookEvery is short for an emulated machine.
const lookEvery = 100 * time.Millisecond

// eventually polls until do succeeds or ctx ends, where there is no notification.
func eventually(ctx context.Context, look func() error) error {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	last := errors.New("there was no time to look")
	for {
		err := look()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), last)
		}
	}
}
