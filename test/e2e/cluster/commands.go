package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/test/e2e/internal/cluster"
	"github.com/overlay-cni/overlay-cni/test/e2e/internal/images"
)

// command is one of this program's.
type command struct {
	usage string
	run   func(context.Context, options) error
}

var commands = map[string]command{
	"up":          {"make a cluster of a control plane and two workers", up},
	"down":        {"end it, and remove all of it but the logs", down},
	"kubectl":     {"run kubectl as the administrator: kubectl get pods -A", kubectl},
	"exec":        {"run a program in a node: exec worker1 ip route", execute},
	"shell":       {"run a program in the clients' network: shell curl http://192.168.88.11:30080", shell},
	"reboot":      {"reboot a node: reboot worker1", reboot},
	"conformance": {"run Kubernetes' own tests of the network, and print a table", conformance},
	"test":        {"make one cluster after another, and run all tests on each", testAll},
	"images":      {"build images.tar beside Kubernetes", buildImages},
}

func describe() string {
	var names []string
	for name := range commands {
		names = append(names, name)
	}
	slices.Sort(names)
	var text strings.Builder
	for _, name := range names {
		fmt.Fprintf(&text, "  %-12s %s\n", name, commands[name].usage)
	}
	return text.String()
}

func up(ctx context.Context, o options) error {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	_, err := cluster.Up(ctx, o.cluster())
	return err
}

func down(ctx context.Context, o options) error {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	return cluster.Down(ctx, o.cluster())
}

func reboot(ctx context.Context, o options) error {
	if len(o.args) != 1 {
		return errors.New("reboot takes one node's name")
	}
	c, err := cluster.Open(o.cluster())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	return errors.Join(c.Reboot(ctx, o.args[0]), c.AwaitReady(ctx))
}

func kubectl(ctx context.Context, o options) error {
	c, err := cluster.Open(o.cluster())
	if err != nil {
		return err
	}
	return inNode(ctx, c, cluster.Switch, append([]string{
		o.e2eBin("kubectl"), "--kubeconfig=" + c.Kubeconfig(),
	}, o.args...)...)
}

func execute(ctx context.Context, o options) error {
	if len(o.args) < 2 {
		return errors.New("exec takes a node's name and a program")
	}
	c, err := cluster.Open(o.cluster())
	if err != nil {
		return err
	}
	return inNode(ctx, c, o.args[0], o.args[1:]...)
}

func shell(ctx context.Context, o options) error {
	if len(o.args) == 0 {
		return errors.New("shell takes a program")
	}
	c, err := cluster.Open(o.cluster())
	if err != nil {
		return err
	}
	return inNode(ctx, c, cluster.Switch, o.args...)
}

func inNode(ctx context.Context, c *cluster.Cluster, node string, args ...string) error {
	cmd, err := c.Command(ctx, node, args...)
	if err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

func buildImages(_ context.Context, o options) error {
	return images.Build(o.e2eBin("images.tar"), o.e2eBin(""))
}
