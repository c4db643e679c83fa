package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// netnsDir is where iproute2 and CNI runtimes keep named network namespaces.
// In a sandbox it is private.
const netnsDir = "/run/netns"

// Netns is an open network namespace.
type Netns struct {
	path string
	ns   ns.NetNS
}

// CreateNetns makes the network namespace /run/netns/NAME, with lo up. It
// refuses to do so outside of a sandbox.
func CreateNetns(name string) (*Netns, error) {
	if !Inside() {
		return nil, fmt.Errorf("create network namespace %q: only in a sandbox: call it from within sandbox.Run", name)
	}
	path := filepath.Join(netnsDir, name)
	if err := mountPoint(path); err != nil {
		return nil, fmt.Errorf("create network namespace %q: %w", name, err)
	}
	if err := unshareTo(path); err != nil {
		return nil, errors.Join(fmt.Errorf("create network namespace %q: %w", name, err), os.Remove(path))
	}
	n, err := OpenNetns(path)
	if err != nil {
		return nil, err
	}
	if err := n.Do(loopbackHere); err != nil {
		return nil, errors.Join(err, n.Delete())
	}
	return n, nil
}

// OpenNetns opens the network namespace whose file is path.
func OpenNetns(path string) (*Netns, error) {
	n, err := ns.GetNS(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return &Netns{path: path, ns: n}, nil
}

// mountPoint makes an empty file for the namespace to be mounted on.
func mountPoint(path string) error {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	return f.Close()
}

// unshareTo makes a network namespace and mounts it on path, which keeps it
// alive.
func unshareTo(path string) error {
	made, err := ns.TempNetNS()
	if err != nil {
		return err
	}
	defer made.Close()
	if err := unix.Mount(fmt.Sprint("/proc/self/fd/", made.Fd()), path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount it on %s: %w", path, err)
	}
	return nil
}

// Name is the last part of the path.
func (n *Netns) Name() string { return filepath.Base(n.path) }

// Path is the namespace's file.
func (n *Netns) Path() string { return n.path }

// FD is the open file that stands for the namespace in netlink messages. It is
// valid until Close or Delete.
func (n *Netns) FD() int { return int(n.ns.Fd()) }

// Close lets go of the namespace but leaves it in place.
func (n *Netns) Close() error { return n.ns.Close() }

// Delete removes the namespace's file too. The namespace itself ends, with
// every link in it, once no process, thread or socket is left inside.
func (n *Netns) Delete() error {
	err := errors.Join(
		n.ns.Close(),
		wrap("unmount "+n.path, tolerate(os.ErrNotExist, unix.Unmount(n.path, unix.MNT_DETACH))),
		tolerate(os.ErrNotExist, os.Remove(n.path)),
	)
	return wrap(fmt.Sprintf("delete network namespace %q", n.Name()), err)
}

// errGoexit is the error of a function that ended its goroutine.
var errGoexit = errors.New("the function ended its goroutine (a test's FailNow belongs into the test's own)")

// Do calls fn inside the namespace, on a thread that returns afterwards. Sockets
// that fn opens stay in it; goroutines that fn starts are not in it. The thread
// may be the main one, whose namespace /proc/self/ns/net shows: use
// /proc/thread-self/ns/net for the caller's.
func (n *Netns) Do(fn func() error) error {
	result := errGoexit
	if err := n.ns.Do(func(ns.NetNS) error {
		result = fn()
		return nil
	}); err != nil {
		return fmt.Errorf("enter network namespace %q: %w", n.Name(), err)
	}
	return result
}

// Start starts cmd inside the namespace. The command must not have Pdeathsig
// set, which refers to the thread that starts it; the sandbox ends it anyway.
func (n *Netns) Start(cmd *exec.Cmd) error { return n.Do(cmd.Start) }

// Handle opens netlink in the namespace. The handle works from any thread and
// is the caller's to close.
func (n *Netns) Handle() (*netlink.Handle, error) {
	var h *netlink.Handle
	err := n.Do(func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	return h, wrap(fmt.Sprintf("open netlink in network namespace %q", n.Name()), err)
}
