package registry

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Closable is a registry that has been opened.
type Closable interface {
	Registry
	Close() error
}

// Late stands in for a registry that can't be opened: a file is missing, or has a
// mistake. It tries again until it can. Until then Nodes returns ErrNotReady with the
// reason, so that a host which has a network keeps it.
type Late struct {
	open    func() (Closable, error)
	changed chan struct{}
	stop    context.CancelFunc
	done    chan struct{}

	mu     sync.Mutex
	opened Closable // nil until it could be opened
	err    error    // why not
}

// lateRetry is how often Late tries to open the registry.
const lateRetry = 2 * time.Second

// NewLate returns a stand-in for the registry that open opens. why is the error of
// the first attempt.
func NewLate(open func() (Closable, error), why error) *Late { return newLate(open, why, lateRetry) }

func newLate(open func() (Closable, error), why error, retry time.Duration) *Late {
	ctx, cancel := context.WithCancel(context.Background())
	l := &Late{open: open, err: why, changed: make(chan struct{}, 1), stop: cancel, done: make(chan struct{})}
	go l.run(ctx, retry)
	return l
}

// Nodes returns what the registry returns, or why there is none yet.
func (l *Late) Nodes() ([]Node, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.opened != nil {
		return l.opened.Nodes()
	}
	return nil, fmt.Errorf("%w: %w", ErrNotReady, l.err)
}

// Changed gets a value when Nodes may answer differently than before.
func (l *Late) Changed() <-chan struct{} { return l.changed }

// Unwrap returns the registry, or nil while it is not open.
func (l *Late) Unwrap() Registry {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.opened == nil {
		return nil
	}
	return l.opened
}

// Close closes the registry if it is open.
func (l *Late) Close() error {
	l.stop()
	<-l.done
	if l.opened == nil {
		return nil
	}
	return l.opened.Close()
}

func (l *Late) run(ctx context.Context, retry time.Duration) {
	defer close(l.done)
	again := time.NewTicker(retry)
	defer again.Stop()
	for l.Unwrap() == nil {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
			l.try()
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.opened.Changed():
			l.signal()
		}
	}
}

func (l *Late) try() {
	r, err := l.open()
	l.mu.Lock()
	defer l.mu.Unlock()
	same := err != nil && text(err) == text(l.err)
	l.err = err
	if err == nil {
		l.opened = r
	}
	if !same {
		l.signal()
	}
}

func (l *Late) signal() {
	select {
	case l.changed <- struct{}{}:
	default: // the last signal is still unread
	}
}

// As returns what a registry offers beside its nodes: a Reporter, an Announcer or a
// Sharer. It returns false if the registry offers no such thing.
func As[T any](r Registry) (T, bool) {
	for r != nil {
		if t, ok := r.(T); ok {
			return t, true
		}
		stand, ok := r.(interface{ Unwrap() Registry })
		if !ok {
			break
		}
		r = stand.Unwrap()
	}
	var none T
	return none, false
}
