package file

import (
	"github.com/overlay-cni/overlay-cni/internal/filewatch"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

// Registry is a watched nodes file.
type Registry struct {
	nodes *filewatch.Value[[]registry.Node]
}

// New reads the file and begins to watch it. It fails if the file is missing or
// wrong. Later, a missing or wrong file leaves the last good set.
func New(path string) (*Registry, error) {
	nodes, err := filewatch.Open(path, (&reader{path: path}).read)
	if err != nil {
		return nil, err
	}
	return &Registry{nodes}, nil
}

// Nodes returns the set of the last good file. The error beside it says why the
// current file is refused.
func (r *Registry) Nodes() ([]registry.Node, error) { return r.nodes.Get() }

// Changed gets a value when the nodes or the error changed.
func (r *Registry) Changed() <-chan struct{} { return r.nodes.Changed() }

// Close ends the watch. Nodes keeps returning its last result.
func (r *Registry) Close() error { return r.nodes.Close() }
