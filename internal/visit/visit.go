// Package visit does a few things in another network namespace, of which the
// calling thread is back before Go's scheduler can do anything with it.
//
// A goroutine that enters a namespace has to be locked to its thread
// (runtime.LockOSThread). The first one that asks for that has the runtime start
// another thread, which a short process is better off without. But while a
// function in assembly runs, nothing else does on its thread: the runtime preempts
// none (isAsyncSafePoint in runtime/preempt.go). So all system calls of a visit are
// done by one. Nor can the runtime stop such a thread, for a collection: this is
// for calls that don't wait.
package visit

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrUnsupported is for machines for which there is no such function.
var ErrUnsupported = errors.New("visits are not supported on this architecture")

// ErrDiffers is for a file that was to be read, and has another content.
var ErrDiffers = errors.New("it has another content")

// File is one that a visit writes to, such as a kernel parameter, of which each
// namespace has its own. Where there is none there is nothing to do.
type File struct {
	Path, Content string
	// Read: it isn't written but read, and has to have the content already, but
	// for a newline.
	Read bool
}

// Socket writes or reads the files and opens a route netlink socket (closed on
// exec) in the network namespace that the file descriptor netns is of. The calling
// thread comes from the one that home is of, and goes back there; if it can't, the
// process ends. With an error there is no socket; the files may have been
// written.
func Socket(netns, home int, files []File) (int, error) {
	if !supported {
		return -1, ErrUnsupported
	}
	calls := make([]call, 0, len(files)*3+3) // never grown: calls point at each other
	do := func(c call) *call {
		calls = append(calls, c)
		return &calls[len(calls)-1]
	}
	enter := do(call{nr: unix.SYS_SETNS, a: uintptr(netns), b: unix.CLONE_NEWNET, onError: stop})
	for _, f := range files {
		if err := f.access(do); err != nil {
			return -1, err
		}
	}
	socket := do(call{nr: unix.SYS_SOCKET, a: unix.AF_NETLINK, b: unix.SOCK_RAW | unix.SOCK_CLOEXEC, c: unix.NETLINK_ROUTE})
	do(call{nr: unix.SYS_SETNS, a: uintptr(home), b: unix.CLONE_NEWNET, onError: exit})

	run(&calls[0], uintptr(len(calls)))

	if err := enter.err(); err != nil {
		return -1, fmt.Errorf("enter a network namespace: %w", err)
	}
	if err := socket.err(); err != nil {
		return -1, fmt.Errorf("open a route netlink socket: %w", err)
	}
	for i, f := range files {
		if err := f.outcome(calls[1+i*3:]); err != nil {
			return -1, errors.Join(err, unix.Close(int(socket.result)))
		}
	}
	return int(socket.result), nil
}

// access adds three calls: open, write or read, close.
func (f File) access(do func(call) *call) error {
	path, err := unix.BytePtrFromString(f.Path)
	if err != nil {
		return &fs.PathError{Op: "open", Path: f.Path, Err: err}
	}
	here := unix.AT_FDCWD
	flags, nr, content := unix.O_WRONLY, unix.SYS_WRITE, unsafe.StringData(f.Content)
	size := len(f.Content)
	if f.Read {
		// One byte more tells whether it goes on.
		size += len("\n") + 1
		flags, nr, content = unix.O_RDONLY, unix.SYS_READ, &make([]byte, size)[0]
	}
	file := do(call{nr: unix.SYS_OPENAT, a: uintptr(here), data: path, c: uintptr(flags | unix.O_CLOEXEC)})
	do(call{nr: uintptr(nr), fd: &file.result, data: content, c: uintptr(size)})
	do(call{nr: unix.SYS_CLOSE, fd: &file.result})
	return nil
}

// outcome says what went wrong in them.
func (f File) outcome(calls []call) error {
	open, access := &calls[0], &calls[1]
	if errors.Is(open.err(), fs.ErrNotExist) {
		return nil
	}
	op := "write"
	if f.Read {
		op = "read"
	}
	err := access.err()
	switch {
	case open.err() != nil:
		op, err = "open", open.err()
	case err == nil && f.Read && strings.TrimSuffix(string(unsafe.Slice(access.data, access.result)), "\n") != f.Content:
		err = ErrDiffers
	}
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: f.Path, Err: err}
}

// call is a system call with at most three arguments.
type call struct {
	nr, a, b, c uintptr
	fd          *int  // if not nil, the first argument instead of a
	data        *byte // if not nil, the second argument instead of b
	onError     uintptr
	result      int // -errno if it failed
}

// What to do where a call fails.
const (
	goOn uintptr = iota // with the next one
	stop                // return
	exit                // end the process
)

func (c *call) err() error {
	if c.result >= 0 {
		return nil
	}
	return unix.Errno(-c.result)
}
