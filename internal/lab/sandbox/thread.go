package sandbox

import (
	"errors"
	"runtime"

	"golang.org/x/sys/unix"
)

// errGoexit is what a function that ends its goroutine leaves behind.
var errGoexit = errors.New("the function ended its goroutine (a test's FailNow belongs into the test's own)")

// onOwnThread runs fn on a thread that ends with it, so that fn may move the
// thread into other namespaces and need not, or cannot, move it back.
func onOwnThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread can't end before the process, and its network
			// namespace is what /proc/PID/ns shows. It is kept busy here, so the
			// next goroutine gets another one.
			defer runtime.UnlockOSThread()
			done <- onOwnThread(fn)
			return
		}
		err := errGoexit
		defer func() { done <- err }()
		err = fn()
	}()
	return <-done
}
