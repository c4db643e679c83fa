package filewatch

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// maxLinks is where the kernel, too, gives up following symbolic links.
const maxLinks = 40

// trace follows a path as the kernel does when it opens it, and calls visit
// for each directory entry on the way: the names of directories, symbolic
// links and at last the file. A change of any of them changes what the path
// means: the file may be renamed over, a link above it swapped (Kubernetes
// mounts a ConfigMap so), a directory removed and made again.
//
// visit comes before the entry is looked at, so that a watch set by it misses
// nothing. trace stops where the path leads nowhere.
func trace(path string, visit func(dir, name string) error) error {
	dir, rest := "/", strings.Split(path, "/")
	links := 0
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		if name == "" || name == "." {
			continue
		}
		if name == ".." {
			dir = filepath.Dir(dir) // dir has no links in it
			continue
		}
		if err := visit(dir, name); err != nil {
			return err
		}
		entry := filepath.Join(dir, name)
		target, err := os.Readlink(entry)
		if errors.Is(err, syscall.EINVAL) { // not a link
			dir = entry
			continue
		}
		if links++; err != nil || links > maxLinks {
			return nil // opening the file is what reports it
		}
		if filepath.IsAbs(target) {
			dir = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return nil
}
