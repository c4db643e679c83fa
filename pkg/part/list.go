package part

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// List is the parts of a host, in the order in which Sync syncs them. Sync, Remove
// and ForceResync are for one goroutine at a time; Numbers is for any.
type List[D any] struct {
	parts []Part[D]
	log   *slog.Logger

	mu      sync.Mutex
	numbers []Numbers // of the part with the same index
}

// Numbers count what a part has done since the daemon started.
type Numbers struct {
	Part     string
	LastRun  time.Time     // when Sync last began; zero: never
	Took     time.Duration // by the last Sync
	Changes  int           // that all Syncs made
	Failures int           // Syncs that returned an error, minor ones included
	Err      error         // of the last Sync
}

// InRound returns the parts that one loop of the daemon syncs.
func InRound[D any](round string, parts []Part[D]) []Part[D] {
	return slices.DeleteFunc(slices.Clone(parts), func(p Part[D]) bool { return p.Round != round })
}

// NewList returns a list that logs what its parts change.
func NewList[D any](log *slog.Logger, parts ...Part[D]) *List[D] {
	l := &List[D]{parts: parts, log: log, numbers: make([]Numbers, len(parts))}
	for i, p := range parts {
		l.numbers[i].Part = p.Name
	}
	return l
}

// Sync syncs every part with the desired state. A part that fails stops only the
// parts that need it. down joins the errors that cut off this host's pods, degraded
// joins the minor ones. Each error names its part.
func (l *List[D]) Sync(want D) (down, degraded error) {
	var severe, minor []error
	failed := map[string]bool{}
	for i, p := range l.parts {
		if slices.ContainsFunc(p.Needs, func(name string) bool { return failed[name] }) {
			failed[p.Name] = true
			continue
		}
		switch err := l.sync(i, want); {
		case err == nil:
		case p.Minor != nil && p.Minor(err):
			minor = append(minor, err)
		default:
			failed[p.Name] = true
			severe = append(severe, err)
		}
	}
	return errors.Join(severe...), errors.Join(minor...)
}

func (l *List[D]) sync(i int, want D) error {
	p := l.parts[i]
	if p.Sync == nil {
		return nil
	}
	begin := time.Now()
	changes, err := p.Sync(want)
	l.count(i, begin, len(changes), err)
	if len(changes) > 0 {
		l.log.Info("changed the host", "part", p.Name, "changes", summary(changes))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	return nil
}

func (l *List[D]) count(i int, begin time.Time, changes int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := &l.numbers[i]
	n.LastRun, n.Took, n.Err = begin, time.Since(begin), err
	n.Changes += changes
	if err != nil {
		n.Failures++
	}
}

// summary shortens a list that may have thousands of entries.
func summary(changes []string) string {
	const shown = 10
	text := strings.Join(changes[:min(shown, len(changes))], ", ")
	if more := len(changes) - shown; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// Numbers returns the numbers of each part, in the order of the list.
func (l *List[D]) Numbers() []Numbers {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.numbers)
}

// Remove removes all parts, the last one of the list first. It calls removed
// with the name of each thing that it removed. A part that fails does not stop
// the others; the error joins those of all.
func (l *List[D]) Remove(was D, removed func(name string)) error {
	var errs []error
	for _, p := range slices.Backward(l.parts) {
		if p.Remove == nil {
			continue
		}
		names, err := p.Remove(was)
		for _, name := range names {
			removed(name)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("remove %s: %w", p.Name, err))
		}
	}
	return errors.Join(errs...)
}

// ForceResync makes the next Sync of every part read everything.
func (l *List[D]) ForceResync() {
	for _, p := range l.parts {
		if p.ForceResync != nil {
			p.ForceResync()
		}
	}
}

// Watches returns the Watch functions of the parts that have one.
func (l *List[D]) Watches() []func(ctx context.Context, changed func()) error {
	var all []func(context.Context, func()) error
	for _, p := range l.parts {
		if p.Watch != nil {
			all = append(all, p.Watch)
		}
	}
	return all
}
