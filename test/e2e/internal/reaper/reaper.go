// Package reaper is what the first process of a process namespace does.
package reaper

import (
	"errors"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// Run reaps processes that lost their parent, until one of the signals until.
// The first process of a namespace gets no signal that it doesn't ask for, but
// SIGKILL from outside.
func Run(until ...os.Signal) {
	// Room for signals that come while orphans are reaped.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, append(until, unix.SIGCHLD)...)
	for s := range signals {
		if s != unix.SIGCHLD {
			return
		}
		reap()
	}
}

// reap takes all that have ended: a signal may stand for many.
func reap() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if pid <= 0 && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
