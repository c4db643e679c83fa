// Package visit does a few things in another network namespace, of which the
// calling thread is back before Go's scheduler could notice.
//
// A goroutine that enters a namespace has to be locked to its thread
// (runtime.LockOSThread). The first one that asks for that has the runtime start
// another thread, a twentieth of an ADD. But while a function in assembly runs,
// nothing else does on its thread: the runtime preempts none (isAsyncSafePoint in
// runtime/preempt.go). So all system calls of a visit are done by one.
package visit

import (
	"errors"
	"fmt"
	"io/fs"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrUnsupported is for machines for which there is no such function.
var ErrUnsupported = errors.New("visits are not supported on this architecture")

// File is one that a visit writes to, such as a kernel parameter, of which each
// namespace has its own.
type File struct {
	Path, Content string
}

// Socket writes the files and opens a route netlink socket (closed on exec) in
// the network namespace that the file descriptor netns is of. The calling thread
// comes from the one that home is of, and goes back there; if it can't, the
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
		if err := f.write(do); err != nil {
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
		if err := f.written(calls[1+i*3:]); err != nil {
			return -1, errors.Join(err, unix.Close(int(socket.result)))
		}
	}
	return int(socket.result), nil
}

// write adds three calls: open, write, close.
func (f File) write(do func(call) *call) error {
	path, err := unix.BytePtrFromString(f.Path)
	if err != nil {
		return &fs.PathError{Op: "open", Path: f.Path, Err: err}
	}
	here := unix.AT_FDCWD
	file := do(call{nr: unix.SYS_OPENAT, a: uintptr(here), path: path, c: unix.O_WRONLY | unix.O_CLOEXEC})
	do(call{nr: unix.SYS_WRITE, fd: &file.result, path: unsafe.StringData(f.Content), c: uintptr(len(f.Content))})
	do(call{nr: unix.SYS_CLOSE, fd: &file.result})
	return nil
}

// written returns what went wrong in them.
func (f File) written(calls []call) error {
	for i, op := range []string{"open", "write"} {
		if err := calls[i].err(); err != nil {
			return &fs.PathError{Op: op, Path: f.Path, Err: err}
		}
	}
	return nil
}

// call is a system call with at most three arguments. The second one is b, or
// path.
type call struct {
	nr, a, b, c uintptr
	fd          *int  // if not nil, the first argument instead of a
	path        *byte // if not nil, the second argument instead of b
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
