package rtnl

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/nl"
)

// Conn is a route netlink socket in one network namespace. It stays there even
// if the thread that opened it moves. It is for one goroutine at a time.
type Conn struct{ nl *nl.Conn }

// Open opens a socket in the network namespace of the calling thread.
func Open() (*Conn, error) {
	conn, err := nl.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	return &Conn{conn}, nil
}

// Close closes the socket.
func (c *Conn) Close() error { return c.nl.Close() }

// OpenIn opens a socket in the network namespace that netns refers to. The
// calling thread must be in the namespace of c. OpenIn enters the other
// namespace, calls do there, opens the socket, and comes back. If do fails,
// OpenIn comes back without a socket.
//
// OpenIn gets the namespace to return to from c's socket, because the first open
// of a file below /proc takes a new process long.
func (c *Conn) OpenIn(netns *os.File, do func() error) (*Conn, error) {
	home, err := c.netns()
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(home) }()
	runtime.LockOSThread()
	if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("enter network namespace %s: %w", netns.Name(), err)
	}
	var conn *Conn
	if err = do(); err == nil {
		conn, err = Open()
	}
	if back := unix.Setns(home, unix.CLONE_NEWNET); back != nil {
		// The thread stays locked, so the runtime ends it with its goroutine
		// and never runs anything else in the wrong namespace.
		return nil, errors.Join(err, fmt.Errorf("return to the original network namespace: %w", back))
	}
	runtime.UnlockOSThread()
	return conn, err
}

// InNetns reports whether netns is the namespace of c.
func (c *Conn) InNetns(netns *os.File) (bool, error) {
	home, err := c.netns()
	if err != nil {
		return false, err
	}
	defer func() { _ = unix.Close(home) }()
	var own, other unix.Stat_t
	if err := errors.Join(unix.Fstat(home, &own), unix.Fstat(int(netns.Fd()), &other)); err != nil {
		return false, fmt.Errorf("compare network namespace %s with the socket's: %w", netns.Name(), err)
	}
	return own.Dev == other.Dev && own.Ino == other.Ino, nil
}

// netns opens the socket's network namespace (SIOCGSKNS, linux/sockios.h).
func (c *Conn) netns() (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(c.nl.FD()), unix.SIOCGSKNS, 0)
	if errno != 0 {
		return -1, fmt.Errorf("open the network namespace of a socket: %w", errno)
	}
	return int(fd), nil
}

// Batch is a list of operations that go to the kernel together. The zero value
// is empty and ready. The methods that add an operation return its request,
// which may tolerate errors, and holds the operation's result after Run.
type Batch struct{ requests []*nl.Request }

// Len returns the number of operations.
func (b *Batch) Len() int { return len(b.requests) }

// Run carries out the operations of b in order. The kernel goes on after an
// operation that it refuses. The error joins an *nl.Error for each refused
// operation that does not tolerate the error, or says why the socket failed.
func (c *Conn) Run(b *Batch) error { return c.nl.Exec(b.requests...) }

// add adds an operation. Text names it for errors.
func (b *Batch) add(text string, typ, flags uint16, body nl.Attrs) *nl.Request {
	r := &nl.Request{Type: typ, Flags: flags, Body: body, Op: text}
	b.requests = append(b.requests, r)
	return r
}

// addMany is add for operations that come by the thousand: describe makes their
// text only if an error needs it.
func (b *Batch) addMany(describe func(*nl.Request) string, typ, flags uint16, body nl.Attrs) *nl.Request {
	r := b.add("", typ, flags, body)
	r.Describe = describe
	return r
}
