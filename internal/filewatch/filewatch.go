// Package filewatch holds what a file says, and reads it again when it changed.
//
// Invariant: once a file was read well, there is always a good value: a broken
// or missing file leaves the last one, with the error beside it.
package filewatch

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"reflect"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Value is what a watched file holds.
type Value[T any] struct {
	path    string // as it was given, for messages
	parse   func() (T, error)
	full    string // absolute
	timing  timing
	watcher *fsnotify.Watcher
	entries map[string]bool // the directory entries that full depends on
	dirs    map[string]bool // the directories they are in
	changed chan struct{}
	stop    func()
	stopped chan struct{}
	done    chan struct{}

	mu    sync.Mutex
	value T
	err   error
}

// timing is when a changed file is read.
type timing struct {
	// settle is how long nothing must have changed: a file is written in
	// pieces, and one cut between two nodes would look whole.
	settle time.Duration
	// patience is how long changes that go on put off reading.
	patience time.Duration
	// anyway is how often to read when nothing changed. It finds what no
	// event tells: writing through mmap, another machine's write to a network
	// file system, an entry in a directory that we may not read.
	anyway time.Duration
}

func defaultTiming() timing {
	return timing{settle: 100 * time.Millisecond, patience: time.Second, anyway: time.Minute}
}

// Open has parse read the file, and begins to watch it. A file that is missing
// or wrong is an error here, and only here: later it leaves the last good
// value.
func Open[T any](path string, parse func() (T, error)) (*Value[T], error) {
	return open(path, parse, defaultTiming())
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
	full, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", path, err)
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch %s (see fs.inotify.max_user_instances): %w", path, err)
	}
	stopped := make(chan struct{})
	v := &Value[T]{
		path: path, parse: parse, full: full, timing: t, watcher: watcher,
		dirs:    map[string]bool{},
		changed: make(chan struct{}, 1),
		stop:    sync.OnceFunc(func() { close(stopped) }),
		stopped: stopped,
		done:    make(chan struct{}),
	}
	if v.value, _, v.err = v.read(); v.err != nil {
		return nil, errors.Join(v.err, watcher.Close())
	}
	return v, nil
}

// Get returns the value of the last good file, and beside it why the file as it
// is now was refused.
func (v *Value[T]) Get() (T, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.value, v.err
}

// Changed gets something when the value or the error became a different one.
func (v *Value[T]) Changed() <-chan struct{} { return v.changed }

// Close ends the watching, and returns when it has ended. Get goes on
// answering what it did before.
func (v *Value[T]) Close() error {
	v.stop()
	<-v.done
	return nil
}

// read watches what the path goes through now, and then reads the file, in
// this order: a change in between is read twice rather than never.
func (v *Value[T]) read() (value T, good bool, err error) {
	watchErr := v.watch()
	value, err = v.parse()
	return value, err == nil, errors.Join(err, watchErr)
}

// watch sets the watches for the path as it leads now, and drops those of
// where it led before.
func (v *Value[T]) watch() error {
	entries, dirs := map[string]bool{}, map[string]bool{}
	err := trace(v.full, func(dir, name string) error {
		entries[filepath.Join(dir, name)] = true
		dirs[dir] = true
		return v.watchDir(dir)
	})
	for dir := range v.dirs {
		if !dirs[dir] {
			// It fails if the directory is gone, and the watch with it.
			_ = v.watcher.Remove(dir)
		}
	}
	v.entries, v.dirs = entries, dirs
	return err
}

// watchDir adds a watch even where there is one: it may be that of an earlier
// directory with the name.
func (v *Value[T]) watchDir(dir string) error {
	err := v.watcher.Add(dir)
	if err == nil || errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		// Without permission, or gone again: reading the file says it if that
		// matters, and timing.anyway finds what goes unseen.
		return nil
	}
	return fmt.Errorf("watch %s for changes of %s (see fs.inotify.max_user_watches): %w", dir, v.path, err)
}

// run reads the file again when something on its path changed, until Close.
func (v *Value[T]) run() {
	defer close(v.done)
	defer v.endWatching()
	var due deadline
	anyway := time.NewTicker(v.timing.anyway)
	defer anyway.Stop()
	for {
		select {
		case <-v.stopped:
			return
		case event := <-v.watcher.Events:
			if v.entries[filepath.Clean(event.Name)] {
				due.postpone(v.timing)
			}
		case _, open := <-v.watcher.Errors: // events were lost
			if !open {
				return
			}
			due.postpone(v.timing)
		case <-due.reached():
			due = deadline{}
			v.refresh()
		case <-anyway.C:
			due.postpone(v.timing) // somebody may just be writing
		}
	}
}

// endWatching returns when the watcher's goroutine has closed its channels: its
// Close alone may return before.
func (v *Value[T]) endWatching() {
	_ = v.watcher.Close() // it never fails
	for range v.watcher.Events {
		continue
	}
}

// refresh takes over what the file is now.
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
	default: // the reader has not come for the last one yet
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// deadline is when to read a file that is changing; zero while it is not.
type deadline struct {
	timer *time.Timer
	first time.Time
}

func (d *deadline) postpone(t timing) {
	if d.timer == nil {
		d.timer, d.first = time.NewTimer(t.settle), time.Now()
		return
	}
	// Past its end the timer is left alone: it has fired or is about to.
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
