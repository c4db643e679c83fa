package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// callerEnv tells the program that it was started to become the first
	// process of a sandbox, and the user who wanted it.
	callerEnv = "OVERLAY_SANDBOX_CALLER"
	// marker is a file on the sandbox's own tmpfs, so it can neither be
	// inherited by mistake nor be left behind.
	marker = "/run/.overlay-sandbox"
	// lifelineFD is where exec.Cmd puts the first of its ExtraFiles.
	lifelineFD = 3
)

// ExitError is how the program inside the sandbox ended when it did not end
// well. It has told its reasons itself: there is nothing left to print.
type ExitError struct {
	Code int // as a shell has it: 128 + the number of the signal that killed it
}

func (e *ExitError) Error() string { return fmt.Sprintf("exit status %d", e.Code) }

// ExitCode is the exit code that the caller should end with, too.
func (e *ExitError) ExitCode() int { return e.Code }

// Inside reports whether this process runs in a sandbox.
func Inside() bool {
	_, err := os.Stat(marker)
	return err == nil
}

// Run calls fn inside a sandbox. In a process that is not in one yet, it starts
// this program again (same arguments, folder and standard streams) in private
// user (unless root), process, mount and network namespaces, waits for it and
// returns an *ExitError if it failed; fn is then called by the new process,
// when that comes to the same call of Run. Signals are passed on to it.
//
// Where private namespaces cannot be had, the error is a *NotAllowedError,
// which says why and what helps.
func Run(fn func() error) error {
	if Inside() {
		return fn()
	}
	if os.Getenv(callerEnv) == "" || os.Getpid() != 1 {
		return reenter()
	}
	if err := setup(); err != nil {
		return err
	}
	return fn()
}

// reenter starts the program in new namespaces and waits for its end.
func reenter() error {
	// The kernel sends Pdeathsig when the thread that forked ends, so this one
	// has to stay as long as the sandbox.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	lifeline, held, err := os.Pipe() // see parentGone
	if err != nil {
		return fmt.Errorf("make a pipe to the sandbox: %w", err)
	}
	defer lifeline.Close()
	defer held.Close()

	// Before the start: a signal must not end this process alone.
	signals := make(chan os.Signal, 16) // more than anybody sends while the child is being started
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	defer signal.Stop(signals)

	cmd, err := start(lifeline)
	if err != nil {
		return &NotAllowedError{UID: os.Geteuid(), Cause: err}
	}
	done := make(chan struct{})
	defer close(done)
	go forward(signals, cmd.Process, done)
	return exitError(cmd.Wait())
}

// start tries the ways into new namespaces, the most powerful one first: root
// without a user namespace keeps the machine's real users and limits.
func start(lifeline *os.File) (*exec.Cmd, error) {
	ways := []uintptr{syscall.CLONE_NEWUSER}
	if os.Geteuid() == 0 {
		ways = []uintptr{0, syscall.CLONE_NEWUSER}
	}
	var errs []error
	for _, userns := range ways {
		cmd := command(userns, lifeline)
		err := cmd.Start()
		if err == nil {
			return cmd, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// command is this program again. The path leads by way of /proc because the
// file may have been replaced, or be out of this user's reach by name.
func command(userns uintptr, lifeline *os.File) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = os.Args
	cmd.Env = append(os.Environ(), callerEnv+"="+strconv.Itoa(os.Geteuid()))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{lifeline}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: userns | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
		// Else the terminal's Ctrl-C would reach the child twice: once from the
		// terminal, once passed on.
		Setpgid: true,
	}
	if userns != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return cmd
}

// forward passes signals on until done is closed.
func forward(signals <-chan os.Signal, to *os.Process, done <-chan struct{}) {
	for {
		select {
		case s := <-signals:
			_ = to.Signal(s) // it may just have ended, which is what Wait reports
		case <-done:
			return
		}
	}
}

// exitError turns the result of exec.Cmd's Wait into an *ExitError.
func exitError(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return &ExitError{Code: 128 + int(status.Signal())}
	}
	return &ExitError{Code: exit.ExitCode()}
}
