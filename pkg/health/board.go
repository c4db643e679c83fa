// Package health tells other programs whether the daemon does its work, and why
// not: over HTTP, for Kubernetes' probes, load balancers and people.
//
// Invariant: what it says is what the last round of each part found. It looks
// at nothing itself, so asking costs nothing and can't fail.
package health

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Finding is the outcome of a round of one part.
type Finding struct {
	// Down is why pods of this host can't be connected, or not reach others.
	Down error
	// Degraded is what else is wrong: some other host, or a configuration that
	// was refused while the one before goes on.
	Degraded error
	// Note is what is worth knowing and not wrong.
	Note string
}

// Board holds the last finding of each part.
type Board struct {
	now   func() time.Time
	mu    sync.Mutex
	parts map[string]entry
}

type entry struct {
	Finding
	since time.Time // when Down or Degraded became what they are
}

// NewBoard returns a board on which each of the parts has found nothing yet.
func NewBoard(parts ...string) *Board {
	b := &Board{now: time.Now, parts: map[string]entry{}}
	for _, p := range parts {
		b.Set(p, Finding{Down: errFirst})
	}
	return b
}

var errFirst = errors.New("the first round has not come to its end yet")

// Set replaces the finding of a part.
func (b *Board) Set(part string, f Finding) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := entry{f, b.now()}
	if old, ok := b.parts[part]; ok && old.text() == e.text() {
		e.since = old.since
	}
	b.parts[part] = e
}

func (f Finding) text() string { return fmt.Sprint(f.Down, f.Degraded) }

// Ready tells whether no part is down, and in words what is wrong with each.
func (b *Board) Ready() (bool, string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ready, text := true, &strings.Builder{}
	for _, part := range slices.Sorted(maps.Keys(b.parts)) {
		e := b.parts[part]
		ready = ready && e.Down == nil
		e.write(text, part)
	}
	return ready, text.String()
}

func (e entry) write(text *strings.Builder, part string) {
	since := e.since.UTC().Format(time.RFC3339)
	if e.Down != nil {
		fmt.Fprintf(text, "%s: down since %s: %v\n", part, since, e.Down)
	}
	if e.Degraded != nil {
		fmt.Fprintf(text, "%s: degraded since %s: %v\n", part, since, e.Degraded)
	}
	if e.Down == nil && e.Degraded == nil {
		fmt.Fprintf(text, "%s: ok\n", part)
	}
	if e.Note != "" {
		fmt.Fprintf(text, "%s: note: %s\n", part, e.Note)
	}
}
