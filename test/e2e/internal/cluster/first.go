package cluster

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/test/e2e/internal/reaper"
)

// FirstArgument makes the program the first process of a node: with this argument
// it must call RunFirst with the arguments that follow.
const FirstArgument = "first-process"

// Switch is the switch, where others are nodes. Clients of the cluster are in its
// network.
const Switch = "switch"

// readyFD is the pipe on which a first process says what went wrong, or
// nothing. It does nothing at all before it has been told on its standard input
// that Down knows of it: so it ends with a parent that was killed before.
const readyFD = 3

// startFirst starts the first process of new namespaces and waits until it has
// made its file system.
func (c *Cluster) startFirst(name string, namespaces uintptr) error {
	ready, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd := exec.Command("/proc/self/exe", FirstArgument, name, c.Dir, c.Bin)
	cmd.ExtraFiles = []*os.File{theirs}
	goAhead, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	defer goAhead.Close()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: namespaces | unix.CLONE_NEWPID | unix.CLONE_NEWNET}
	err = cmd.Start()
	_ = theirs.Close() // the process has its own
	if err != nil {
		return fmt.Errorf("start the first process of %s: %w", name, err)
	}
	go func() { _ = cmd.Wait() }()
	p, err := find(cmd.Process.Pid)
	if err != nil {
		return err
	}
	if err := c.record(name, p); err != nil {
		return err
	}
	if _, err := goAhead.Write([]byte{1}); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	words, err := io.ReadAll(ready)
	if err != nil || len(words) > 0 {
		return fmt.Errorf("start %s: %s (%w)", name, words, err)
	}
	return nil
}

// RunFirst is the first process of a node or of the switch. It ends when it is
// killed.
func RunFirst(args []string) error {
	if os.Getpid() != 1 || len(args) != 3 {
		return errors.New("this is run by the cluster itself, as the first process of a node")
	}
	if n, err := os.Stdin.Read(make([]byte, 1)); n != 1 {
		return fmt.Errorf("wait for the parent: %w", err)
	}
	ready := os.NewFile(readyFD, "ready")
	if args[0] != Switch {
		if err := prepareNode(args[0], args[1], args[2]); err != nil {
			fmt.Fprint(ready, err)
			return err
		}
	}
	if err := ready.Close(); err != nil {
		return err
	}
	reaper.Run()
	return nil
}

// prepareNode makes the namespaces that this process is in those of a machine.
func prepareNode(name, dir, bin string) error {
	if err := mountAll(nodeMounts(name, dir, bin)); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	setup, err := readSetup(dir)
	if err != nil {
		return err
	}
	families, err := setup.families()
	if err != nil {
		return err
	}
	all, err := setup.nodes(families)
	if err != nil {
		return err
	}
	for path, text := range nodeFiles(name, dir, all) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		_ = os.Remove(path) // it may be a link, out of the node's own files
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	// Volumes with mount propagation need shared mounts. They were made private
	// before, so these share with nothing but the node's own.
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
}
