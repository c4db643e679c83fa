package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/spf13/pflag"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	var exit *sandbox.ExitError
	err := bench(args, stdout, stderr)
	switch {
	case err == nil || errors.Is(err, pflag.ErrHelp):
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	fmt.Fprintln(stderr, "bench-path:", err)
	return 1
}

func bench(args []string, stdout, stderr io.Writer) error {
	o, err := parseOptions(args, stderr)
	if err != nil {
		return err
	}
	// A collection would be measured as the network's time, and there is little to
	// collect.
	debug.SetGCPercent(1000)
	return sandbox.Run(func() error {
		results, err := measure(o, stderr)
		if err != nil {
			return err
		}
		results.print(stdout)
		return results.save(o.json)
	})
}
