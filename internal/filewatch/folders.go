package filewatch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// Folders calls changed when something in one of the folders appears, changes or
// goes, or a folder itself does, until ctx ends. It calls changed with the path of
// what changed. Folders may be missing. A folder that is replaced, or moved away, is
// noticed within a second.
func Folders(ctx context.Context, folders []string, changed func(path string)) error {
	return watchFolders(ctx, folders, changed, defaultTiming().look)
}

func watchFolders(ctx context.Context, folders []string, changed func(path string), look time.Duration) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s (see fs.inotify.max_user_instances): %w", folders, err)
	}
	f := folderWatch{watcher: watcher, changed: changed, seen: map[string]place{}}
	defer f.close()
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for {
		for _, folder := range folders {
			if err := f.renew(folder); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case e := <-watcher.Events:
			changed(e.Name)
			if slices.Contains(folders, e.Name) {
				f.seen[e.Name] = place{} // the watch may be of a folder that is gone
			}
		case err := <-watcher.Errors:
			if err != nil { // events were lost
				for _, folder := range folders {
					changed(folder)
				}
			}
		case <-ticker.C:
		}
	}
}

type folderWatch struct {
	watcher *fsnotify.Watcher
	changed func(path string)
	seen    map[string]place // folders that are watched
}

// place tells a folder from another one of the same name. It is zero where there is
// none.
type place struct{ dev, ino uint64 }

// renew watches a folder that is another one than before, and reports that.
func (f *folderWatch) renew(folder string) error {
	var st unix.Stat_t
	now := place{}
	if unix.Lstat(folder, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		now = place{st.Dev, st.Ino}
	}
	before, known := f.seen[folder]
	if known && before == now {
		return nil
	}
	_ = f.watcher.Remove(folder) // fails if there was no watch, or it went with the folder
	if now != (place{}) {
		err := f.watcher.Add(folder)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			return nil // it went meanwhile: the next look finds out
		}
		if err != nil {
			return fmt.Errorf("watch %s (see fs.inotify.max_user_watches): %w", folder, err)
		}
	}
	f.seen[folder] = now
	if known {
		f.changed(filepath.Clean(folder))
	}
	return nil
}

// close returns when the watcher's goroutine has ended.
func (f *folderWatch) close() {
	_ = f.watcher.Close() // it never fails
	for range f.watcher.Events {
		continue
	}
}
