package file

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"reflect"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

// Registry is a watched nodes file.
type Registry struct {
	path    string // as it was given, for messages
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
	nodes []registry.Node
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

// New reads the file and begins to watch it. A file that is missing or wrong
// is an error here, and only here: later it leaves the last good set.
func New(path string) (*Registry, error) { return open(path, defaultTiming()) }

func open(path string, t timing) (*Registry, error) {
	r, err := load(path, t)
	if err != nil {
		return nil, err
	}
	go r.run()
	return r, nil
}

// load is open without the goroutine.
func load(path string, t timing) (*Registry, error) {
	full, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find the nodes file %s: %w", path, err)
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch the nodes file %s (see fs.inotify.max_user_instances): %w", path, err)
	}
	stopped := make(chan struct{})
	r := &Registry{
		path: path, full: full, timing: t, watcher: watcher,
		dirs:    map[string]bool{},
		changed: make(chan struct{}, 1),
		stop:    sync.OnceFunc(func() { close(stopped) }),
		stopped: stopped,
		done:    make(chan struct{}),
	}
	if r.nodes, r.err = r.read(); r.err != nil {
		return nil, errors.Join(r.err, watcher.Close())
	}
	return r, nil
}

// Nodes returns the set of the last good file, and beside it why the file as
// it is now was refused.
func (r *Registry) Nodes() ([]registry.Node, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.nodes, r.err
}

// Changed gets a value when the nodes or the error became different ones.
func (r *Registry) Changed() <-chan struct{} { return r.changed }

// Close ends the watching, and returns when it has ended. Nodes goes on
// answering what it did before.
func (r *Registry) Close() error {
	r.stop()
	<-r.done
	return nil
}

// read watches what the path goes through now, and then reads the file, in
// this order: a change in between is read twice rather than never.
func (r *Registry) read() ([]registry.Node, error) {
	watchErr := r.watch()
	nodes, err := Read(r.path)
	return nodes, errors.Join(err, watchErr)
}

// watch sets the watches for the path as it leads now, and drops those of
// where it led before.
func (r *Registry) watch() error {
	entries, dirs := map[string]bool{}, map[string]bool{}
	err := trace(r.full, func(dir, name string) error {
		entries[filepath.Join(dir, name)] = true
		dirs[dir] = true
		return r.watchDir(dir)
	})
	for dir := range r.dirs {
		if !dirs[dir] {
			// It fails if the directory is gone, and the watch with it.
			_ = r.watcher.Remove(dir)
		}
	}
	r.entries, r.dirs = entries, dirs
	return err
}

// watchDir adds a watch even where there is one: it may be that of an earlier
// directory with the name.
func (r *Registry) watchDir(dir string) error {
	err := r.watcher.Add(dir)
	if err == nil || errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		// Without permission, or gone again: reading the file says it if that
		// matters, and timing.anyway finds what goes unseen.
		return nil
	}
	return fmt.Errorf("watch %s for changes of the nodes file %s (see fs.inotify.max_user_watches): %w", dir, r.path, err)
}

// run reads the file again when something on its path changed, until Close.
func (r *Registry) run() {
	defer close(r.done)
	defer r.watcher.Close()
	var due deadline
	anyway := time.NewTicker(r.timing.anyway)
	defer anyway.Stop()
	for {
		select {
		case <-r.stopped:
			return
		case event := <-r.watcher.Events:
			if r.entries[filepath.Clean(event.Name)] {
				due.postpone(r.timing)
			}
		case _, open := <-r.watcher.Errors: // events were lost
			if !open {
				return
			}
			due.postpone(r.timing)
		case <-due.reached():
			due = deadline{}
			r.refresh()
		case <-anyway.C:
			r.refresh()
		}
	}
}

// refresh takes over what the file is now.
func (r *Registry) refresh() {
	nodes, err := r.read()
	r.mu.Lock()
	defer r.mu.Unlock()
	if nodes == nil {
		nodes = r.nodes
	}
	if reflect.DeepEqual(nodes, r.nodes) && text(err) == text(r.err) {
		return
	}
	r.nodes, r.err = nodes, err
	select {
	case r.changed <- struct{}{}:
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
