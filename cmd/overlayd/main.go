// Overlayd joins this host to the pod network: it is the daemon of overlay-cni,
// and the operator's commands.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// version is set by the linker, see the Makefile.
var version = "devel"

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	return exitCode(rootCommand().ExecuteContext(ctx), os.Stderr)
}

// interrupted is what shells report for a command that Ctrl-C ended.
const interrupted = 128 + int(unix.SIGINT)

// exitCode prints the error, unless another process did already, and returns the
// exit code of the program.
func exitCode(err error, out io.Writer) int {
	var inner *sandbox.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &inner): // the child process in a sandbox has printed the error
		return inner.Code
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(out, "overlayd: interrupted")
		return interrupted
	}
	fmt.Fprintln(out, "overlayd:", err)
	return 1
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "overlayd",
		Short: "Join this host to an overlay network of pods",
		Long: `Overlayd joins hosts by VXLAN so that any two pods can talk, whichever hosts
they are on. Run it on every host; the CNI plugin overlay-cni connects the pods.`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w: see %s --help", err, cmd.CommandPath())
	})
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(runCommand(), installCommand(), uninstallCommand(), demoCommand())
	return root
}

// noArguments refuses words that are not flags. A user often means such a word as the
// value of a boolean flag.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("%s takes no arguments, but got %q: give flags only (see --help), and the value of a boolean flag as --NAME=false",
		cmd.CommandPath(), args[0])
}
