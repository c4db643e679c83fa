package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// program is a file to run with its environment.
type program struct {
	path string
	env  []string
}

// run starts the program on the calling thread, in its namespaces, with stdin,
// waits for its end and returns what it wrote. There are no helper goroutines
// and the child is made by vfork(2), so this costs about what it costs a
// runtime written in C, and the same for every program.
func (p program) run(stdin []byte) ([]byte, error) {
	var stdout, stderr []byte
	pid, err := p.start(stdin, nil, func(out, errs *os.File) { stdout, stderr = drain(out), drain(errs) })
	if err != nil {
		return nil, err
	}
	var status unix.WaitStatus
	if err := wait(pid, &status); err != nil {
		return nil, err
	}
	if !status.Exited() || status.ExitStatus() != 0 {
		return nil, fmt.Errorf("%s: exit status %d: %s%s", p.path, status.ExitStatus(), bytes.TrimSpace(stdout), bytes.TrimSpace(stderr))
	}
	return stdout, nil
}

// start starts the program and hands its outputs to read.
func (p program) start(stdin []byte, attr *syscall.SysProcAttr, read func(stdout, stderr *os.File)) (int, error) {
	var pipes [3][2]*os.File
	for i := range pipes {
		r, w, err := blockingPipe()
		if err != nil {
			return 0, err
		}
		defer r.Close()
		defer w.Close()
		pipes[i] = [2]*os.File{r, w}
	}
	// A configuration is far below the 64 KiB that a pipe holds.
	if _, err := pipes[0][1].Write(stdin); err != nil {
		return 0, err
	}
	pid, err := syscall.ForkExec(p.path, []string{p.path}, &syscall.ProcAttr{
		Env: p.env, Sys: attr,
		Files: []uintptr{pipes[0][0].Fd(), pipes[1][1].Fd(), pipes[2][1].Fd()},
	})
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", p.path, err)
	}
	for _, f := range []*os.File{pipes[0][1], pipes[1][1], pipes[2][1]} {
		if err := f.Close(); err != nil {
			return 0, err
		}
	}
	read(pipes[1][0], pipes[2][0])
	return pid, nil
}

// blockingPipe is os.Pipe without the poller: the thread has nothing else to do than
// to wait.
func blockingPipe() (*os.File, *os.File, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("make a pipe: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe"), nil
}

// drain reads to the end. It ignores errors: a result that is cut off can't be parsed.
func drain(f *os.File) []byte {
	data, _ := io.ReadAll(f)
	return data
}

func wait(pid int, status *unix.WaitStatus) error {
	for {
		_, err := unix.Wait4(pid, status, 0, nil)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// peakMemory runs the program and returns the most memory it had at once, in bytes.
// wait4(2) reports too much: it counts this process's memory before the exec as the
// child's. So peakMemory stops the child at its end, and reads /proc.
func (p program) peakMemory(stdin []byte) (int64, error) {
	runtime.LockOSThread() // ptrace(2) is between two threads
	defer runtime.UnlockOSThread()
	pid, err := p.start(stdin, &syscall.SysProcAttr{Ptrace: true}, func(_, _ *os.File) {})
	if err != nil {
		return 0, err
	}
	var peak int64
	for options := unix.PTRACE_O_TRACEEXIT | unix.PTRACE_O_EXITKILL; ; options = 0 {
		var status unix.WaitStatus
		if err := wait(pid, &status); err != nil {
			return 0, err
		}
		if status.Exited() || status.Signaled() {
			return peak, nil
		}
		signal := int(status.StopSignal())
		if status.StopSignal() == unix.SIGTRAP {
			signal = 0
		}
		if status.TrapCause() == unix.PTRACE_EVENT_EXIT {
			peak = statusKiB(pid, "VmHWM") << 10
		}
		if options != 0 {
			err = unix.PtraceSetOptions(pid, options)
		}
		if err := errors.Join(err, unix.PtraceCont(pid, signal)); err != nil {
			return 0, fmt.Errorf("trace %s: %w", p.path, err)
		}
	}
}

// statusKiB returns a value of /proc/PID/status in KiB, 0 if there is none.
func statusKiB(pid int, key string) int64 {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, after, _ := bytes.Cut(data, []byte("\n"+key+":"))
	var kib int64
	_, _ = fmt.Sscan(string(after), &kib)
	return kib
}
