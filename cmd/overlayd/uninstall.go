package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/overlay-cni/overlay-cni/pkg/cnifiles"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/uninstall"
)

func uninstallCommand() *cobra.Command {
	var host uninstall.Host
	var binDir string
	var stay bool
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Take this host off the network, and leave it clean",
		Long: `Uninstall removes what overlayd and the CNI plugin made on this host: the network
configuration, the tunnel, the bridge, routes, firewall rules, the run directory
and the plugin's program. What is not there, or not ours, is left alone, so it
may be run twice. The sysctls that were turned on, such as forwarding, stay on.

It refuses while overlayd runs, and while there are pods.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			host.Program = cnifiles.Program{Path: filepath.Join(binDir, pluginName)}
			if err := clean(cmd, host); err != nil || !stay {
				return err
			}
			<-cmd.Context().Done()
			return nil
		},
	}
	f := cmd.Flags()
	addHostFlags(f, &host)
	f.StringVar(&binDir, "bin-dir", defaultBinDir, "directory of the container runtime's plugins")
	f.BoolVar(&host.Force, "force", false, "take pods off the network, too")
	f.BoolVar(&stay, "stay", false, "then wait for SIGTERM, as a pod of a DaemonSet has to")
	return cmd
}

func addHostFlags(f *pflag.FlagSet, host *uninstall.Host) {
	f.StringVar(&host.Config.Dir, "conf-dir", cnifiles.DefaultConfDir, "directory of the network configuration")
	f.StringVar(&host.Config.Name, "conf-name", cnifiles.DefaultConfName, "file name of the network configuration")
	f.StringVar(&host.RunDir, "run-dir", nodestate.DefaultDir, "the daemon's runDir")
	f.StringVar(&host.Bridge, "bridge", "", "the daemon's bridge (default: the one it used last, else cni0)")
	f.StringVar(&host.Device, "vxlan-device", "", "the daemon's vxlan.device (default: the one it used last, else overlay0)")
}

// clean tells of each thing that it removes.
func clean(cmd *cobra.Command, host uninstall.Host) error {
	out := cmd.OutOrStdout()
	if err := host.Clean(func(what string) { fmt.Fprintln(out, "removed", what) }); err != nil {
		return err
	}
	fmt.Fprintln(out, "nothing of overlay-cni is left on this host")
	return nil
}
