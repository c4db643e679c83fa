package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// process is a program that is measured from outside.
type process struct {
	cmd     *exec.Cmd
	started time.Time
	log     string
	done    chan struct{} // closed when it has ended
}

// start starts a program in a namespace. The clock starts before it is forked.
func start(ns *sandbox.Netns, cmd *exec.Cmd, log string) (*process, error) {
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	// A shell may have processes of its own, which go with the group.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p := &process{cmd: cmd, log: log, done: make(chan struct{}), started: time.Now()}
	if err := ns.Start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	go func() {
		defer close(p.done)
		_ = cmd.Wait() // it is killed
	}()
	return p, nil
}

func (p *process) kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // it may have ended by itself
	<-p.done
}

// cpu is the time that all threads of the process have had on a CPU, in the
// kernel and outside. The kernel's clock of a process counts nanoseconds, other
// than /proc/PID/stat (see clock_getcpuclockid(3) for the number).
func (p *process) cpu() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^p.cmd.Process.Pid<<3|2), &t); err != nil {
		return 0, fmt.Errorf("read the CPU time of process %d: %w", p.cmd.Process.Pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// peak is the most memory that the process ever had resident (VmHWM), in bytes.
func (p *process) peak() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return n << 10, err
		}
	}
	return 0, errors.New("no VmHWM in /proc/PID/status: the process has ended")
}

const (
	// look is how often the CPU time is read.
	look = 100 * time.Millisecond
	// A process is at rest when it had less than quiet on a CPU in calm: less
	// than one percent. Nothing that follows from a start or a change waits
	// longer than that before it begins.
	calm  = time.Second
	quiet = 10 * time.Millisecond
)

// rest waits until the process is at rest, and returns the CPU time it had
// until then.
func (p *process) rest(ctx context.Context) (time.Duration, error) {
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	var history []time.Duration
	for {
		now, err := p.cpu()
		if err != nil {
			return 0, err
		}
		history = append(history, now)
		if n := len(history) - 1 - int(calm/look); n >= 0 && now-history[n] < quiet {
			return now, nil
		}
		select {
		case <-ticker.C:
		case <-p.done:
			return 0, p.ended()
		case <-ctx.Done():
			return 0, fmt.Errorf("%s doesn't come to rest: %w", p.cmd.Path, context.Cause(ctx))
		}
	}
}

func (p *process) ended() error {
	text, _ := os.ReadFile(p.log)
	const shown = 2000
	return fmt.Errorf("%s has ended; its log ends with:\n%s", p.cmd.Path, text[max(0, len(text)-shown):])
}
