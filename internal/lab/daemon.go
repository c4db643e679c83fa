package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// readyFile is what overlayd publishes in its run directory for the plugin.
	readyFile = "node.json"
	// outputTime bounds the wait for output of a process that has ended, in case
	// it left its pipe to another one.
	outputTime = time.Second
)

// Daemon is a running overlayd.
type Daemon struct {
	Log  *Log
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	err  error         // of Wait; valid after done
}

// StartDaemon starts overlayd on the host and returns when it has published
// the node's state for the plugin (at once if an earlier overlayd had). The log
// of an earlier overlayd of the host is not continued.
func (h *Host) StartDaemon(ctx context.Context, args ...string) (*Daemon, error) {
	d, err := h.LaunchDaemon(args...)
	if err != nil {
		return nil, err
	}
	if err := d.awaitFile(ctx, filepath.Join(h.RunDir(), readyFile)); err != nil {
		return nil, fmt.Errorf("overlayd on %s: %w; its log ends with:\n%s", h.Name, err, strings.Join(d.Log.Tail(10), "\n"))
	}
	return d, nil
}

// LaunchDaemon is StartDaemon without the wait, for a daemon that has to wait
// for something itself.
func (h *Host) LaunchDaemon(args ...string) (*Daemon, error) {
	d, err := h.startDaemon(args)
	if err != nil {
		return nil, fmt.Errorf("start overlayd on %s: %w", h.Name, err)
	}
	h.daemon = d
	return d, nil
}

func (h *Host) startDaemon(args []string) (*Daemon, error) {
	d := &Daemon{Log: newLog(), name: h.Name, done: make(chan struct{})}
	d.cmd = exec.Command(h.lab.config.Daemon, h.daemonArgs(args)...)
	d.cmd.Stdout, d.cmd.Stderr = d.Log, d.Log
	d.cmd.WaitDelay = outputTime
	if err := h.Netns().Start(d.cmd); err != nil {
		return nil, err
	}
	go func() {
		defer close(d.done)
		d.err = d.cmd.Wait()
	}()
	return d, nil
}

func (h *Host) daemonArgs(more []string) []string {
	args := []string{"run", "--node-name", h.Name, "--run-dir", h.RunDir(), "--registry-file", h.lab.RegistryFile()}
	args = append(args, h.lab.config.DaemonArgs...)
	return append(args, more...)
}

// Daemon is the overlayd that was last started on the host, or nil.
func (h *Host) Daemon() *Daemon { return h.daemon }

// awaitFile returns when path exists.
func (d *Daemon) awaitFile(ctx context.Context, path string) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", path, err)
	}
	defer watcher.Close()
	// The watch comes before the look, so that no moment is missed.
	if err := watcher.Add(filepath.Dir(path)); err != nil {
		return fmt.Errorf("watch %s: %w", path, err)
	}
	for {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		select {
		case <-watcher.Events:
		case err := <-watcher.Errors:
			return fmt.Errorf("watch %s: %w", path, err)
		case <-d.done:
			return fmt.Errorf("it ended before it wrote %s: %w", path, d.exit())
		case <-ctx.Done():
			return fmt.Errorf("it did not write %s: %w", path, context.Cause(ctx))
		}
	}
}

// exit is how the process ended.
func (d *Daemon) exit() error {
	if d.err == nil {
		return errors.New("exit status 0")
	}
	return d.err
}

// Stop asks the daemon to end, and returns an error unless it ended well.
func (d *Daemon) Stop(ctx context.Context) error {
	if err := d.signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-d.done:
	case <-ctx.Done():
		return fmt.Errorf("overlayd on %s does not end after SIGTERM: %w", d.name, context.Cause(ctx))
	}
	if d.err != nil {
		return fmt.Errorf("overlayd on %s after SIGTERM: %w", d.name, d.err)
	}
	return nil
}

// Kill ends the daemon as a crash does. It succeeds for one that has ended.
func (d *Daemon) Kill() error {
	if err := d.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-d.done // a killed process ends
	return nil
}

func (d *Daemon) signal(s syscall.Signal) error {
	if err := d.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %s to overlayd on %s: %w", s, d.name, err)
	}
	return nil
}

// Host is the name of the host that the daemon runs on.
func (d *Daemon) Host() string { return d.name }

// Done is closed when the daemon has ended.
func (d *Daemon) Done() <-chan struct{} { return d.done }
