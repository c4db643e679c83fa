package hosts

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// changing are the system calls by which the plugin changes anything that
// outlives it: files, locks, the kernel's network, its result.
var changing = []uint64{
	unix.SYS_OPENAT, unix.SYS_FLOCK, unix.SYS_SYMLINKAT, unix.SYS_MKDIRAT, unix.SYS_UNLINKAT,
	unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_FTRUNCATE, unix.SYS_SENDTO, unix.SYS_SENDMSG,
}

// errKilled says that the program was killed as planned.
var errKilled = errors.New("killed")

// killAfter runs a program in ns and kills it (SIGKILL) after the step-th of its
// system calls that change something. A program that makes fewer ends by itself:
// the error is then nil, or errStatus if the program failed.
func killAfter(ns *sandbox.Netns, cmd *exec.Cmd, step int) error {
	tr := &tracer{left: step, act: func(pid int) error { return unix.Kill(pid, unix.SIGKILL) }}
	if err := tr.follow(ns, cmd); err != nil {
		return err
	}
	if tr.acted() {
		return errKilled
	}
	return tr.failure()
}

// errStatus says that a program ended with another status than 0.
var errStatus = errors.New("ended with an error")

// pauseAfter runs a program in ns and calls pause after the step-th of its system
// calls that change something. It returns whether the program came to that step,
// and errStatus if the program failed.
func pauseAfter(ns *sandbox.Netns, cmd *exec.Cmd, step int, pause func() error) (bool, error) {
	tr := &tracer{left: step, act: func(int) error { return pause() }}
	if err := tr.follow(ns, cmd); err != nil {
		return tr.acted(), err
	}
	return tr.acted(), tr.failure()
}

// tracer follows all threads of a process (ptrace(2)). It acts while the thread
// that made a certain step is stopped.
type tracer struct {
	left   int                 // system calls that change something, up to that step
	act    func(pid int) error // is given the process
	pid    int
	inside map[int]bool    // threads that are in a system call
	status unix.WaitStatus // how the process ended
}

func (tr *tracer) acted() bool { return tr.left <= 0 }

// failure is how the program ended, if not well.
func (tr *tracer) failure() error {
	switch {
	case tr.status.Signaled():
		return fmt.Errorf("ended by %s", tr.status.Signal())
	case tr.status.ExitStatus() != 0:
		return errStatus
	}
	return nil
}

// follow runs a program in ns to its end.
func (tr *tracer) follow(ns *sandbox.Netns, cmd *exec.Cmd) error {
	// A process group of its own: the tracer waits for this program only, and not for
	// programs that another test started on the same thread.
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true, Setpgid: true}
	return ns.Do(func() error {
		// The thread that starts the program is the one that may trace it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			return err
		}
		tr.pid, tr.inside = cmd.Process.Pid, map[int]bool{}
		if err := tr.run(); err != nil {
			return errors.Join(err, cmd.Process.Kill())
		}
		// Its end was seen by the tracer, so there is nothing to wait for but
		// the goroutines that read its output.
		if err := cmd.Wait(); !errors.Is(err, unix.ECHILD) {
			return err
		}
		return nil
	})
}

func (tr *tracer) run() error {
	var status unix.WaitStatus
	if _, err := unix.Wait4(tr.pid, &status, unix.WALL, nil); err != nil {
		return fmt.Errorf("wait for the program's start: %w", err)
	}
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_EXITKILL
	if err := errors.Join(unix.PtraceSetOptions(tr.pid, options), unix.PtraceSyscall(tr.pid, 0)); err != nil {
		return fmt.Errorf("trace: %w", err)
	}
	for {
		tid, err := unix.Wait4(-tr.pid, &status, unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("wait for the program: %w", err)
		case tid == tr.pid && (status.Exited() || status.Signaled()):
			tr.status = status
			return nil
		case status.Stopped():
			if err := tr.stopped(tid, status); err != nil {
				return err
			}
		}
	}
}

// syscallStop is how PTRACE_O_TRACESYSGOOD marks a stop for a system call.
const syscallStop = unix.SIGTRAP | 0x80

func (tr *tracer) stopped(tid int, status unix.WaitStatus) error {
	signal := 0
	switch s := status.StopSignal(); s {
	case syscallStop:
		tr.inside[tid] = !tr.inside[tid]
		if !tr.inside[tid] && tr.changes(tid) {
			if err := tr.step(); err != nil {
				return err
			}
		}
	case unix.SIGTRAP, unix.SIGSTOP: // of the tracing itself
	default:
		signal = int(s)
	}
	// A thread may be gone by now, killed with the others.
	if err := unix.PtraceSyscall(tid, signal); !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// step counts one, and acts at the one that was asked for.
func (tr *tracer) step() error {
	tr.left--
	if tr.left != 0 {
		return nil
	}
	return tr.act(tr.pid)
}

func (tr *tracer) changes(tid int) bool {
	var regs unix.PtraceRegs
	if unix.PtraceGetRegs(tid, &regs) != nil {
		return false
	}
	return slices.Contains(changing, number(&regs))
}
