package hosts

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/sandbox"
)

// changing are the system calls by which the plugin changes anything that
// outlives it: files, locks, the kernel's network, its result.
var changing = []uint64{
	unix.SYS_OPENAT, unix.SYS_FLOCK, unix.SYS_SYMLINKAT, unix.SYS_MKDIRAT, unix.SYS_UNLINKAT,
	unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_FTRUNCATE, unix.SYS_SENDTO, unix.SYS_SENDMSG,
}

// errKilled says that a program was killed as planned.
var errKilled = errors.New("killed")

// killAfter runs a program in ns and kills it (SIGKILL) when it has come back
// from the step-th of its system calls that change something. If it makes fewer
// it ends by itself, and the error is nil or how it failed.
func killAfter(t *testing.T, ns *sandbox.Netns, cmd *exec.Cmd, step int) error {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	return ns.Do(func() error {
		// The thread that starts the program is the one that may trace it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			return err
		}
		tr := tracer{pid: cmd.Process.Pid, left: step, inside: map[int]bool{}}
		killed, err := tr.run()
		if err != nil {
			return errors.Join(err, cmd.Process.Kill())
		}
		// Its end was seen by the tracer, so there is nothing to wait for but
		// the goroutines that read its output.
		var exit *exec.ExitError
		if err := cmd.Wait(); err != nil && !errors.As(err, &exit) && !errors.Is(err, unix.ECHILD) {
			return err
		}
		if killed {
			return errKilled
		}
		return nil
	})
}

// tracer follows all threads of a process (ptrace(2)).
type tracer struct {
	pid    int
	left   int
	inside map[int]bool // threads that are in a system call
}

// run returns whether the process was killed.
func (tr *tracer) run() (bool, error) {
	var status unix.WaitStatus
	if _, err := unix.Wait4(tr.pid, &status, unix.WALL, nil); err != nil {
		return false, fmt.Errorf("wait for the program's start: %w", err)
	}
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_EXITKILL
	if err := unix.PtraceSetOptions(tr.pid, options); err != nil {
		return false, fmt.Errorf("trace: %w", err)
	}
	if err := unix.PtraceSyscall(tr.pid, 0); err != nil {
		return false, err
	}
	for {
		tid, err := unix.Wait4(-1, &status, unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return false, fmt.Errorf("wait for the program: %w", err)
		case tid == tr.pid && (status.Exited() || status.Signaled()):
			return tr.left <= 0, nil
		case status.Stopped():
			if err := tr.stopped(tid, status); err != nil {
				return false, err
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
			tr.left--
			if tr.left == 0 {
				return unix.Kill(tr.pid, unix.SIGKILL)
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

func (tr *tracer) changes(tid int) bool {
	var regs unix.PtraceRegs
	if unix.PtraceGetRegs(tid, &regs) != nil {
		return false
	}
	return slices.Contains(changing, number(&regs))
}
