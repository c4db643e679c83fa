package main

import (
	"fmt"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/demo"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

func demoCommand() *cobra.Command {
	var plugin string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show pods on several hosts talking, on this machine alone",
		Long: `Make three hosts out of network namespaces on a private wire, run overlayd on
each, add pods with the CNI plugin, and check who reaches whom: also while a
host joins and while one leaves.

All of it happens in namespaces of its own, which vanish with the command: the
machine's network is not touched. Root is not needed where users may make
namespaces.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return runDemo(cmd, plugin) },
	}
	cmd.Flags().StringVar(&plugin, "plugin", "", pluginUsage)
	return cmd
}

func runDemo(cmd *cobra.Command, plugin string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program's own file: %w", err)
	}
	if plugin, err = pluginPath(plugin); err != nil {
		return err
	}
	return sandbox.Run(func() error {
		ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM)
		defer stop()
		return demo.Run(ctx, demo.Options{Daemon: self, Plugin: plugin, Out: cmd.OutOrStdout()})
	})
}
