package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/overlay-cni/overlay-cni/pkg/cnifiles"
)

const (
	// pluginName is the name of the CNI plugin's file, which lies beside this program.
	pluginName = "overlay-cni"
	// pluginUsage describes the flag that names another file.
	pluginUsage = "path of the CNI plugin (default: " + pluginName + " beside this program)"
	// defaultBinDir is where runtimes look for plugins.
	defaultBinDir = "/opt/cni/bin"
)

func installCommand() *cobra.Command {
	var binDir, plugin string
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Put the CNI plugin where the container runtime looks for it",
		Long: `Install copies the CNI plugin into the directory of the container runtime's
plugins, in one step: a plugin that runs at that moment goes on, and nobody ever
runs half of a file. Where the same plugin is there already, nothing is written.

The network configuration is not installed by this command: the daemon writes
it, once pods can be connected (see cni.confDir in docs/configuration.md).`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return install(cmd, binDir, plugin) },
	}
	cmd.Flags().StringVar(&binDir, "bin-dir", defaultBinDir, "directory of the container runtime's plugins")
	cmd.Flags().StringVar(&plugin, "plugin", "", pluginUsage)
	return cmd
}

func install(cmd *cobra.Command, binDir, plugin string) error {
	plugin, err := pluginPath(plugin)
	if err != nil {
		return err
	}
	path := filepath.Join(binDir, pluginName)
	changed, err := cnifiles.Program{Path: path}.Install(plugin)
	if errors.Is(err, cnifiles.ErrNoProgram) {
		return fmt.Errorf("%w: keep %s beside overlayd, or name it with --plugin", err, pluginName)
	}
	if err != nil {
		return err
	}
	verb := "is up to date"
	if changed {
		verb = "is installed"
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s %s, version %s\n", path, verb, version)
	return nil
}

// pluginPath returns the given path of the plugin, or else the path beside this
// program.
func pluginPath(plugin string) (string, error) {
	if plugin != "" {
		return plugin, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program's own file: %w", err)
	}
	return filepath.Join(filepath.Dir(self), pluginName), nil
}
