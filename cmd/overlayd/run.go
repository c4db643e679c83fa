package main

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/daemon"
)

func runCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the daemon",
		Long: `Run keeps this host's tunnel, bridge, routes and firewall rules as the registry
of nodes says, until it is told to end (SIGTERM). Ending it leaves all of that
in place: pods keep talking, and the next run goes on from there.

Every flag is also a key of the configuration file, with dots for dashes: see
docs/configuration.md. A flag wins over the file. Changes of the file are taken
up without a restart. A file with mistakes ends run, but not on a host that has a
network: there it goes on with the configuration that set the network up.`,
		Example: `  overlayd run --config /etc/overlay-cni/overlayd.yaml
  overlayd run --registry-file /etc/overlay-cni/nodes.yaml --underlay eth1`,
		Args: noArguments,
	}
	loader := config.AddFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		live, err := loader.Watch()
		if err != nil {
			return fmt.Errorf("the configuration has mistakes:\n%w", err)
		}
		defer func() { _ = live.Close() }()
		return runDaemon(cmd, live)
	}
	return cmd
}

func runDaemon(cmd *cobra.Command, live *config.Live) error {
	cfg, refused := live.Get()
	log := logger(cmd.ErrOrStderr(), cfg.Log)
	if refused != nil {
		log.Error("the configuration is refused, going on with the one that set up this host's network", "err", refused)
	}
	nodes, err := reachRegistry(cfg, log)
	if err != nil {
		return err
	}
	defer func() { _ = nodes.Close() }()
	return daemon.Run(cmd.Context(), live, nodes, log)
}

func logger(out io.Writer, c config.Log) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.Level}
	if c.Format == config.LogJSON {
		return slog.New(slog.NewJSONHandler(out, options))
	}
	return slog.New(slog.NewTextHandler(out, options))
}
