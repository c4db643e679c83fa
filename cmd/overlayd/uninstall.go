package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/overlay-cni/overlay-cni/pkg/cnifiles"
	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/uninstall"
)

func uninstallCommand() *cobra.Command {
	var host uninstall.Options
	var binDir string
	var stay bool
	var member membership
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Take this host off the network, and leave it clean",
		Long: `Uninstall removes what overlayd and the CNI plugin made on this host: the network
configuration, the tunnel, the bridge, routes, firewall rules, the run directory
and the plugin's program. What is not there, or not ours, is left alone, so it
may be run twice. The sysctls that were turned on, such as forwarding, stay on.

It refuses while overlayd runs, and while there are pods.

Uninstall takes names and paths from the daemon's configuration, if --config
names it. Flags win over the configuration.

With registry.type etcd, this host stays registered until its lease ends, and no
other host gets its pod subnets. Uninstall frees them at once if the daemon's
configuration or flags say how to reach etcd.`,
		Example: `  overlayd uninstall
  overlayd uninstall --config /etc/overlay-cni/overlayd.yaml`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			host.Program = cnifiles.Program{Path: filepath.Join(binDir, pluginName)}
			c, err := member.load()
			if err != nil {
				return err
			}
			configure(&host, cmd.Flags(), c)
			if err := clean(cmd, host, c); err != nil || !stay {
				return err
			}
			<-cmd.Context().Done()
			return nil
		},
	}
	f := cmd.Flags()
	addHostFlags(f, &host)
	member.addFlags(f)
	f.StringVar(&binDir, "bin-dir", defaultBinDir, "directory of the container runtime's plugins")
	f.BoolVar(&host.Force, "force", false, "take pods off the network, too")
	f.BoolVar(&stay, "stay", false, "after removing everything, wait for SIGTERM (for a DaemonSet, which restarts pods that end)")
	return cmd
}

func addHostFlags(f *pflag.FlagSet, host *uninstall.Options) {
	f.StringVar(&host.Config.Dir, "conf-dir", cnifiles.DefaultConfDir, "directory of the network configuration: the daemon's cni.confDir")
	f.StringVar(&host.Config.Name, "conf-name", cnifiles.DefaultConfName, "file name of the network configuration: the daemon's cni.confName")
	f.StringVar(&host.RunDir, "run-dir", nodestate.DefaultDir, "the daemon's runDir")
	f.StringVar(&host.Bridge, "bridge", "", "the daemon's bridge (default: the one it used last, else that of its configuration, else cni0)")
	f.StringVar(&host.Device, "vxlan-device", "", "the daemon's vxlan.device (default: the one it used last, else that of its configuration, else overlay0)")
}

// configure fills in options from the daemon's configuration, except where a flag is
// given. An empty configuration sets nothing.
func configure(host *uninstall.Options, f *pflag.FlagSet, c config.Config) {
	fill := func(flag string, to *string, configured string) {
		if configured != "" && !f.Changed(flag) {
			*to = configured
		}
	}
	fill("conf-dir", &host.Config.Dir, c.CNI.ConfDir)
	fill("conf-name", &host.Config.Name, c.CNI.ConfName)
	fill("run-dir", &host.RunDir, c.RunDir)
	host.Configured = uninstall.Names{Bridge: c.Bridge, Device: c.VXLAN.Device}
}

// membership is what the command line says about the registry: by flags, and by
// the configuration file that one of them names.
type membership struct {
	loader *config.Loader
	flags  []*pflag.Flag
}

// addFlags adds those flags of "overlayd run" that say which registry this host has
// entered, where the registry is, and under which name the host entered it.
func (m *membership) addFlags(f *pflag.FlagSet) {
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	m.loader = config.AddFlags(all)
	all.VisitAll(func(flag *pflag.Flag) {
		if slices.Contains([]string{"config", "node-name", "registry-type"}, flag.Name) || strings.HasPrefix(flag.Name, "registry-etcd-") {
			m.flags = append(m.flags, flag)
			f.AddFlag(flag)
		}
	})
}

// load returns an empty configuration if no flag is given, so that a host whose name
// is not valid for a node can be cleaned.
func (m *membership) load() (config.Config, error) {
	if !slices.ContainsFunc(m.flags, func(flag *pflag.Flag) bool { return flag.Changed }) {
		return config.Config{}, nil
	}
	c, err := m.loader.Load()
	return c, wrap("the configuration has mistakes", err)
}

// clean prints the name of each thing that it removes. The registry comes last: a
// host that is not clean yet may have pods, whose subnets no other host may get.
func clean(cmd *cobra.Command, host uninstall.Options, c config.Config) error {
	out := cmd.OutOrStdout()
	if err := host.Clean(func(what string) { fmt.Fprintln(out, "removed", what) }); err != nil {
		return err
	}
	callers, err := host.Config.Callers()
	if err != nil {
		return err
	}
	for _, path := range callers {
		fmt.Fprintf(out, "left %s, which the daemon did not write: remove it, because it calls the removed plugin\n", path)
	}
	if len(callers) == 0 {
		fmt.Fprintln(out, "nothing of overlay-cni is left on this host")
	}
	removed, err := leaveRegistry(cmd.Context(), c)
	if removed != "" {
		fmt.Fprintln(out, "removed", removed)
	}
	return err
}
