package debian

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// download puts the packages, and what they depend on, into dir.
func download(ctx context.Context, dir string, packages []string) error {
	lists := filepath.Join(dir, "apt")
	if err := os.MkdirAll(filepath.Join(lists, "lists", "partial"), 0o755); err != nil {
		return err
	}
	status := filepath.Join(lists, "status")
	if err := os.WriteFile(status, nil, 0o644); err != nil { // no package is installed
		return err
	}
	options := []string{
		"--quiet=2",
		"-o", "APT::Sandbox::User=root", // else it wants to become _apt, which root alone can
		"-o", "Dir::State=" + lists,
		"-o", "Dir::State::status=" + status,
		"-o", "Dir::Cache=" + dir,
		"-o", "Dir::Cache::archives=" + archives(dir),
	}
	if err := run(ctx, "apt-get", append(options, "update")...); err != nil {
		return err
	}
	install := append(options, "install", "--yes", "--download-only", "--no-install-recommends")
	return run(ctx, "apt-get", append(install, packages...)...)
}

// archives is where the packages are.
func archives(dir string) string { return filepath.Join(dir, "archives") }

// run runs a program of the machine.
func run(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("run %s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}
