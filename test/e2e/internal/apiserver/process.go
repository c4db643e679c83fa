package apiserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// Process is one of the servers. It can be ended and started again any number
// of times, and keeps its data, its address and the users' tokens.
type Process struct {
	name  string
	path  string
	dir   string
	flags []string
	netns *sandbox.Netns

	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
	err  error         // of Wait; valid after done
}

func (s *Server) process(name string, flags []string) *Process {
	return &Process{name: name, path: filepath.Join(s.options.Bin, name), dir: s.options.Dir, flags: flags, netns: s.netns}
}

// Start starts the process. It succeeds for one that runs. Clients have to wait
// until it is ready: see Server.AwaitReady.
func (p *Process) Start() error {
	if p.running() {
		return nil
	}
	log, err := os.OpenFile(p.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	defer log.Close()
	cmd := exec.Command(p.path, p.flags...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	done, started := make(chan struct{}), make(chan error)
	go p.keep(cmd, started, done)
	if err := <-started; err != nil {
		return fmt.Errorf("start %s in folder %s: %w", p.name, p.dir, err)
	}
	p.cmd, p.done = cmd, done
	return nil
}

// keep starts the process and waits for its end on one thread, in the servers'
// namespace: the kernel takes the thread for the parent, and sends Pdeathsig
// when it ends.
func (p *Process) keep(cmd *exec.Cmd, started chan<- error, done chan<- struct{}) {
	err := p.netns.Do(func() error {
		if err := cmd.Start(); err != nil {
			return err
		}
		started <- nil
		p.err = cmd.Wait()
		close(done)
		return nil
	})
	if err != nil {
		started <- err
	}
}

func (p *Process) running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Stop asks the process to end and waits for that. It succeeds for one that
// has ended.
func (p *Process) Stop(ctx context.Context) error {
	if err := p.Signal(syscall.SIGTERM); err != nil || p.cmd == nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s does not end after SIGTERM: %w; %s", p.name, context.Cause(ctx), p.lastWords())
	}
}

// Kill ends the process as a crash does. It succeeds for one that has ended.
func (p *Process) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil || p.cmd == nil {
		return err
	}
	<-p.done // a killed process ends
	return nil
}

// Restart is Stop and Start.
func (p *Process) Restart(ctx context.Context) error {
	if err := p.Stop(ctx); err != nil {
		return err
	}
	return p.Start()
}

// Signal sends a signal, unless the process has ended. After SIGSTOP the server
// accepts connections and never answers, until SIGCONT.
func (p *Process) Signal(s syscall.Signal) error {
	if !p.running() {
		return nil
	}
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %s to %s: %w", s, p.name, err)
	}
	if s == syscall.SIGSTOP {
		return p.awaitStopped()
	}
	return nil
}

// awaitStopped returns when every thread stands still: kill(2) returns before
// that, and a thread on another CPU may still answer a request.
func (p *Process) awaitStopped() error {
	for {
		err := unix.Waitid(unix.P_PID, p.cmd.Process.Pid, nil, unix.WSTOPPED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("wait until "+p.name+" has stopped", err)
		}
	}
}

// Log is the path of what the process writes, over all restarts.
func (p *Process) Log() string { return filepath.Join(p.dir, p.name+".log") }

// lastWords are the last lines of the log, for an error.
func (p *Process) lastWords() string {
	const shown = 5
	text, err := os.ReadFile(p.Log())
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return fmt.Sprintf("%s ends with:\n%s", p.Log(), bytes.Join(lines[max(0, len(lines)-shown):], []byte("\n")))
}
