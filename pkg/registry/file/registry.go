package file

import (
	"github.com/overlay-cni/overlay-cni/internal/filewatch"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

// Registry is a watched nodes file.
type Registry struct {
	nodes *filewatch.Value[[]registry.Node]
}

// New reads the file and begins to watch it. A file that is missing or wrong
// is an error here, and only here: later it leaves the last good set.
func New(path string) (*Registry, error) {
	nodes, err := filewatch.Open(path, (&reader{path: path}).read)
	if err != nil {
		return nil, err
	}
	return &Registry{nodes}, nil
}

// Nodes returns the set of the last good file, and beside it why the file as
// it is now was refused.
func (r *Registry) Nodes() ([]registry.Node, error) { return r.nodes.Get() }

// Changed gets a value when the nodes or the error became different ones.
func (r *Registry) Changed() <-chan struct{} { return r.nodes.Changed() }

// Close ends the watching. Nodes goes on answering what it did before.
func (r *Registry) Close() error { return r.nodes.Close() }
