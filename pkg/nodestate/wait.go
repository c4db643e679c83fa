package nodestate

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Wait is Read, but gives the daemon up to limit to publish. It watches the
// run directory (inotify(7)), so it returns as soon as the file is there.
func Wait(dir string, limit time.Duration) (State, error) {
	state, err := Read(dir)
	if !errors.Is(err, ErrNotPublished) || limit <= 0 {
		return state, err
	}
	w, err := newWatcher()
	if err != nil {
		return State{}, err
	}
	defer w.close()
	deadline := time.Now().Add(limit)
	for {
		// The watch comes before the look, so that no publication is missed;
		// every time anew, as the directory may have been replaced.
		if err := w.watch(dir); err != nil {
			return State{}, err
		}
		state, err := Read(dir)
		if !errors.Is(err, ErrNotPublished) {
			return state, err
		}
		left := time.Until(deadline)
		if left <= 0 {
			return State{}, fmt.Errorf("waited %s: %w", limit, err)
		}
		if err := w.wait(left); err != nil {
			return State{}, err
		}
	}
}

type watcher struct {
	fd int
}

// blind is the descriptor of a watcher that can't watch: poll(2) ignores it.
const blind = -1

// lookAgain is how often a watcher that can't watch has its caller look.
const lookAgain = 100 * time.Millisecond

// newWatcher does without inotify where a user's instances are used up
// (fs.inotify.max_user_instances, 128 by default): many pods that wait at the
// same time after a boot would else fail for it.
func newWatcher() (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if errors.Is(err, unix.EMFILE) {
		return &watcher{fd: blind}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open inotify: %w", err)
	}
	return &watcher{fd: fd}, nil
}

// events are a file that is put in place, and a directory that is taken away.
const events = unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF

// watch makes the directory if it isn't there, because only a directory that
// exists can be watched. Watching it twice is the same as once.
func (w *watcher) watch(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if w.fd == blind {
		return nil
	}
	if _, err := unix.InotifyAddWatch(w.fd, dir, events); err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	return nil
}

// wait returns when something happened in the directory, or after limit.
func (w *watcher) wait(limit time.Duration) error {
	if w.fd == blind {
		limit = min(limit, lookAgain)
	}
	fds := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}
	// Rounded up, or the last millisecond would be waited for by spinning.
	n, err := unix.Poll(fds, int(limit/time.Millisecond)+1)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for %s: %w", FileName, err)
	}
	if n > 0 {
		var buf [4096]byte
		// What happened doesn't matter: the caller looks at the file.
		_, _ = unix.Read(w.fd, buf[:])
	}
	return nil
}

func (w *watcher) close() {
	if w.fd != blind {
		_ = unix.Close(w.fd)
	}
}
