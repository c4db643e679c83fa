package filewatch

import (
	"context"
	"fmt"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Dir calls changed when something in a directory may have changed, until ctx ends. dir
// returns the directory's path, which may be another one each time, or "" for none. Dir
// also calls changed at its beginning: nobody knows what happened before.
//
// Dir reports a directory that is missing, deleted, made anew or mounted over within a
// second, and changes in it a moment after the last one: a file is written in pieces.
func Dir(ctx context.Context, dir func() string, changed func()) error {
	return watchDir(ctx, dir, changed, defaultTiming())
}

func watchDir(ctx context.Context, dir func() string, changed func(), t timing) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s (see fs.inotify.max_user_instances): %w", dir(), err)
	}
	w := directory{watcher: watcher}
	defer w.close()
	w.look(dir())
	changed()
	var due deadline
	again := time.NewTicker(t.look)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-watcher.Events:
			due.postpone(t)
		case err := <-watcher.Errors:
			if err != nil { // events were lost
				due.postpone(t)
			}
		case <-again.C:
			if w.look(dir()) {
				due.postpone(t)
			}
		case <-due.reached():
			due = deadline{}
			w.look(dir())
			changed()
		}
	}
}

// directory is the one that is watched.
type directory struct {
	watcher *fsnotify.Watcher
	path    string
	seen    identity
}

// look watches the directory that has this path now. It reports whether that is another
// one than before, or has changed.
func (d *directory) look(path string) (changed bool) {
	now := identify(path)
	if path == d.path && now == d.seen {
		return false
	}
	if path != d.path {
		_ = d.watcher.Remove(d.path) // fails if it is gone, and the watch with it
	}
	if path != "" {
		// This fails where there is no directory: then the next look finds it. Where an
		// earlier directory of this path has the watch, this one gets it.
		_ = d.watcher.Add(path)
	}
	d.path, d.seen = path, now
	return true
}

// close returns when the watcher's goroutine has ended.
func (d *directory) close() {
	_ = d.watcher.Close() // it never fails
	for range d.watcher.Events {
		continue
	}
}
