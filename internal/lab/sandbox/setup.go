package sandbox

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// setup furnishes the namespaces that this process was born into.
func setup() error {
	caller, err := strconv.Atoi(os.Getenv(callerEnv))
	if err != nil {
		return fmt.Errorf("environment variable %s is for the program's own use: %w", callerEnv, err)
	}
	if err := errors.Join(parentGone(os.NewFile(lifelineFD, "lifeline")), os.Unsetenv(callerEnv)); err != nil {
		return err
	}
	for _, step := range []func() error{privateMounts, mountProc, mountSys, mountRun, loopbackHere} {
		err := step()
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
			return &NotAllowedError{UID: caller, Cause: err}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// parentGone closes a gap: the kernel kills this process when its parent ends,
// but only since Pdeathsig was set. A parent that was killed before that can't
// be seen as a changed parent id either, which is 0 in a new process namespace
// from the start. Its end of the lifeline is closed, however.
func parentGone(lifeline *os.File) error {
	defer lifeline.Close()
	poll := []unix.PollFd{{Fd: int32(lifeline.Fd()), Events: unix.POLLIN}}
	if _, err := unix.Poll(poll, 0); err != nil {
		return fmt.Errorf("look whether the sandbox's parent is alive: %w", err)
	}
	if poll[0].Revents != 0 {
		return errors.New("the process that made this sandbox has ended")
	}
	return nil
}

// privateMounts keeps what is mounted from now on out of the machine's sight.
func privateMounts() error {
	return wrap("make the mounts private", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
}

// Ordinary flags of mounts that hold no programs.
const dataOnly = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// mountProc shows the process numbers of the new namespace. Where parts of
// /proc are covered, as in containers, the kernel refuses an uncovered one to
// a user namespace. The old one will do: /proc/self and /proc/sys/net are the
// reader's in either.
func mountProc() error {
	return wrap("mount /proc", tolerate(unix.EPERM, unix.Mount("proc", "/proc", "proc", dataOnly, "")))
}

// mountSys makes /sys/class/net that of the new network namespace. Refused
// like mountProc; nothing of ours depends on it.
func mountSys() error {
	return wrap("mount /sys", tolerate(unix.EPERM, unix.Mount("sysfs", "/sys", "sysfs", dataOnly, "")))
}

// mountRun gives the sandbox a /run of its own: run directories, named network
// namespaces, iptables' lock.
func mountRun() error {
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount a tmpfs on /run: %w", err)
	}
	return os.WriteFile(marker, nil, 0o444)
}

func loopbackHere() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink in the sandbox: %w", err)
	}
	defer h.Close()
	return loopbackUp(h)
}

func loopbackUp(h *netlink.Handle) error {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the loopback interface: %w", err)
	}
	return wrap("set lo up", h.LinkSetUp(lo))
}

func tolerate(tolerated, err error) error {
	if errors.Is(err, tolerated) {
		return nil
	}
	return err
}

func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}
