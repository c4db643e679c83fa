// Package filewatch holds the parsed content of a file, and reads the file again
// when it changes. inotify on the directories reports most changes at once. A
// check of the file every second finds the others: a change of a directory or
// symbolic link further up, or another machine's write to a network file system.
//
// Invariant: once the file was read well, there is always a good value. A broken
// or missing file leaves the last good value, with the error beside it.
package filewatch

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// Value is what a watched file holds.
type Value[T any] struct {
	path    string // as it was given, for messages
	parse   func() (T, error)
	full    string // absolute
	timing  timing
	watcher *fsnotify.Watcher
	seen    identity // of the file that was read last
	changed chan struct{}
	stop    func()
	stopped chan struct{}
	done    chan struct{}

	mu    sync.Mutex
	value T
	err   error
}

// timing is when to read a changed file.
type timing struct {
	// settle is how long the file must be unchanged before it is read. A file is
	// written in pieces, and one that ends between two nodes would look complete.
	settle time.Duration
	// patience is the longest time that a file which keeps changing is not read.
	patience time.Duration
	// look is how often to compare the file's identity.
	look time.Duration
}

func defaultTiming() timing {
	return timing{settle: 100 * time.Millisecond, patience: time.Second, look: time.Second}
}

// Open calls parse, which reads the file, and begins to watch the file. Open
// fails if parse does. A later failure of parse leaves the last good value.
func Open[T any](path string, parse func() (T, error)) (*Value[T], error) {
	return open(path, parse, defaultTiming())
}

// Follow is Open for a caller who has a good value already: if parse fails, the file
// counts as one that changed for the worse.
func Follow[T any](path string, value T, parse func() (T, error)) (*Value[T], error) {
	v, err := newValue(path, parse, defaultTiming())
	if err != nil {
		return nil, err
	}
	v.value = value
	if now, good, err := v.read(); good {
		v.value, v.err = now, err
	} else {
		v.err = err
	}
	go v.run()
	return v, nil
}

func open[T any](path string, parse func() (T, error), t timing) (*Value[T], error) {
	v, err := load(path, parse, t)
	if err != nil {
		return nil, err
	}
	go v.run()
	return v, nil
}

// load is open without the goroutine.
func load[T any](path string, parse func() (T, error), t timing) (*Value[T], error) {
	v, err := newValue(path, parse, t)
	if err != nil {
		return nil, err
	}
	if v.value, _, v.err = v.read(); v.err != nil {
		return nil, errors.Join(v.err, v.watcher.Close())
	}
	return v, nil
}

// newValue returns a value that has not read its file yet.
func newValue[T any](path string, parse func() (T, error), t timing) (*Value[T], error) {
	full, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", path, err)
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch %s (see fs.inotify.max_user_instances): %w", path, err)
	}
	stopped := make(chan struct{})
	return &Value[T]{
		path: path, parse: parse, full: full, timing: t, watcher: watcher,
		changed: make(chan struct{}, 1),
		stop:    sync.OnceFunc(func() { close(stopped) }),
		stopped: stopped,
		done:    make(chan struct{}),
	}, nil
}

// Get returns the value of the last good file. The error says what is wrong with
// the current file; it is nil if the file is good.
func (v *Value[T]) Get() (T, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.value, v.err
}

// Changed returns a channel that receives whenever the result of Get changes.
func (v *Value[T]) Changed() <-chan struct{} { return v.changed }

// Close stops watching and waits until the watcher has ended. Get keeps
// returning the last value.
func (v *Value[T]) Close() error {
	v.stop()
	<-v.done
	return nil
}

// read sets the watches, notes which file it is, and then reads it, in this
// order: a change in between is read twice rather than never.
func (v *Value[T]) read() (value T, good bool, err error) {
	watchErr := v.watch()
	v.seen = identify(v.full)
	value, err = v.parse()
	return value, err == nil, errors.Join(err, watchErr)
}

// watch watches the file's directory, and the directory of the file that a
// symbolic link leads to. Kubernetes swaps such links to update a ConfigMap.
func (v *Value[T]) watch() error {
	dirs := []string{filepath.Dir(v.full)}
	if target, err := filepath.EvalSymlinks(v.full); err == nil {
		dirs = append(dirs, filepath.Dir(target))
	}
	for _, old := range v.watcher.WatchList() {
		if !slices.Contains(dirs, old) {
			_ = v.watcher.Remove(old) // fails if the directory is gone, and the watch with it
		}
	}
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, v.watchDir(dir))
	}
	return errors.Join(errs...)
}

// watchDir adds a watch even where there is one: it may be the watch of an
// earlier directory of that name.
func (v *Value[T]) watchDir(dir string) error {
	err := v.watcher.Add(dir)
	if err == nil || errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil // reading the file reports what matters, and the look finds changes
	}
	return fmt.Errorf("watch %s for changes of %s (see fs.inotify.max_user_watches): %w", dir, v.path, err)
}

// identity tells one version of a file from another. It is zero where there is
// no file.
type identity struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

func identify(path string) identity {
	var s unix.Stat_t
	if unix.Stat(path, &s) != nil {
		return identity{}
	}
	return identity{s.Dev, s.Ino, s.Size, s.Mtim, s.Ctim}
}

// run reads the file again when something changed, until Close.
func (v *Value[T]) run() {
	defer close(v.done)
	defer v.endWatching()
	var due deadline
	look := time.NewTicker(v.timing.look)
	defer look.Stop()
	for {
		select {
		case <-v.stopped:
			return
		case <-v.watcher.Events:
			due.postpone(v.timing)
		case err := <-v.watcher.Errors:
			if err != nil { // events were lost
				due.postpone(v.timing)
			}
		case <-look.C:
			// Whatever made the last reading fail may be over without a change of the file.
			if v.err != nil || identify(v.full) != v.seen {
				due.postpone(v.timing)
			}
		case <-due.reached():
			due = deadline{}
			v.refresh()
		}
	}
}

// endWatching returns when the watcher's goroutine has closed its channels. The
// watcher's Close may return before that.
func (v *Value[T]) endWatching() {
	_ = v.watcher.Close() // it never fails
	for range v.watcher.Events {
		continue
	}
}

// refresh takes over what the file says now.
func (v *Value[T]) refresh() {
	value, good, err := v.read()
	v.mu.Lock()
	defer v.mu.Unlock()
	if !good {
		value = v.value
	}
	if reflect.DeepEqual(value, v.value) && text(err) == text(v.err) {
		return
	}
	v.value, v.err = value, err
	select {
	case v.changed <- struct{}{}:
	default: // the last signal is still unread
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// deadline is when to read a changed file. It is zero if no read is due.
type deadline struct {
	timer *time.Timer
	first time.Time
}

func (d *deadline) postpone(t timing) {
	if d.timer == nil {
		d.timer, d.first = time.NewTimer(t.settle), time.Now()
		return
	}
	// Once patience is over, the timer keeps its time: it has fired or is about to.
	if wait := min(t.settle, t.patience-time.Since(d.first)); wait > 0 {
		d.timer.Reset(wait)
	}
}

func (d *deadline) reached() <-chan time.Time {
	if d.timer == nil {
		return nil
	}
	return d.timer.C
}
