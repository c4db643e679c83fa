// Command cluster makes a Kubernetes of three nodes on this machine, and runs
// tests on it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/overlay-cni/overlay-cni/test/e2e/internal/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	var exit interface{ ExitCode() int }
	if errors.As(err, &exit) { // the program that was run has told why
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == cluster.FirstArgument {
		return cluster.RunFirst(args[1:])
	}
	o, err := parse(args)
	if errors.Is(err, pflag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	command, ok := commands[o.command]
	if !ok {
		return fmt.Errorf("unknown command %q: see --help", o.command)
	}
	return command.run(ctx, o)
}
