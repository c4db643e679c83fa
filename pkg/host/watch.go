package host

import (
	"context"
	"sync"

	"github.com/overlay-cni/overlay-cni/internal/filewatch"
	"github.com/overlay-cni/overlay-cni/pkg/cnifiles"
)

// watchedFile is a file that a part keeps and that other programs may change. Rounds
// write it, and the part's watch, which runs beside them, looks whether it still is what
// the last round left.
type watchedFile struct {
	mu  sync.Mutex
	dir string
	// differs reports whether a round has to look at the file. It is nil before the
	// first one.
	differs func() bool
}

// synced sets what the last round left in a directory.
func (w *watchedFile) synced(dir string, differs func() bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dir, w.differs = dir, differs
}

// watch calls changed when the file differs, until ctx ends.
func (w *watchedFile) watch(ctx context.Context, changed func()) error {
	return filewatch.Dir(ctx, w.directory, func() {
		if w.hasChanged() {
			changed()
		}
	})
}

func (w *watchedFile) directory() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dir
}

func (w *watchedFile) hasChanged() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.differs != nil && w.differs()
}

func (h *Host) keepConflist(want cnifiles.Config) ([]string, error) {
	changes, err := want.Sync()
	h.conflist.synced(want.Dir, func() bool { return want.Differs(err) })
	return changes, err
}
