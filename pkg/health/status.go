// Package health tells other programs whether the daemon does its work, and why
// not: over HTTP, for Kubernetes' probes, load balancers and people.
//
// Invariant: the answer is the result of the daemon's last rounds. A request reads
// nothing else, so it costs nothing and can't fail.
package health

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/part"
)

// Status is the outcome of a round.
type Status struct {
	// Down is why pods of this host can't be connected, or can't reach others.
	Down error
	// Degraded is what else is wrong: another host, or a configuration that was
	// refused while the last good one stays.
	Degraded error
	// Note is information for the operator; nothing is wrong.
	Note string
	// Parts are the numbers of the parts that the round syncs. A part over which there
	// is a contest counts as degraded.
	Parts []part.Numbers
}

// Tracker holds the status of each round. Any number of goroutines may use it.
type Tracker struct {
	now    func() time.Time
	mu     sync.Mutex
	rounds map[string]tracked
}

type tracked struct {
	Status
	since time.Time // when Down or Degraded changed last
}

// NewTracker returns a tracker in which each of the rounds is down until Set is
// called for it.
func NewTracker(rounds ...string) *Tracker {
	t := &Tracker{now: time.Now, rounds: map[string]tracked{}}
	for _, r := range rounds {
		t.Set(r, Status{Down: errFirst})
	}
	return t
}

var errFirst = errors.New("the first round has not finished yet")

// Set replaces the status of a round.
func (t *Tracker) Set(round string, s Status) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := tracked{s, t.now()}
	if old, ok := t.rounds[round]; ok && old.text() == now.text() {
		now.since = old.since
	}
	t.rounds[round] = now
}

func (s Status) text() string { return fmt.Sprint(s.Down, s.Degraded) }

// contests returns the parts that another program changes again and again.
func (s Status) contests() []part.Numbers {
	return slices.DeleteFunc(slices.Clone(s.Parts), func(n part.Numbers) bool { return n.Contest == part.Contest{} })
}

// Statuses returns the status of each round, by the round's name.
func (t *Tracker) Statuses() map[string]Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := map[string]Status{}
	for name, r := range t.rounds {
		all[name] = r.Status
	}
	return all
}

// Ready reports whether no round is down, and says what is wrong with each.
func (t *Tracker) Ready() (bool, string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ready, text := true, &strings.Builder{}
	for _, name := range slices.Sorted(maps.Keys(t.rounds)) {
		r := t.rounds[name]
		ready = ready && r.Down == nil
		r.write(text, name)
	}
	return ready, text.String()
}

func (r tracked) write(text *strings.Builder, round string) {
	since := r.since.UTC().Format(time.RFC3339)
	if r.Down != nil {
		fmt.Fprintf(text, "%s: down since %s: %v\n", round, since, r.Down)
	}
	if r.Degraded != nil {
		fmt.Fprintf(text, "%s: degraded since %s: %v\n", round, since, r.Degraded)
	}
	contests := r.contests()
	for _, c := range contests {
		fmt.Fprintf(text, "%s: degraded since %s: %s: %s\n", round, c.Contest.Since.UTC().Format(time.RFC3339), c.Part, c.Contest.Text())
	}
	if r.Down == nil && r.Degraded == nil && len(contests) == 0 {
		fmt.Fprintf(text, "%s: ok\n", round)
	}
	if r.Note != "" {
		fmt.Fprintf(text, "%s: note: %s\n", round, r.Note)
	}
	for _, p := range r.Parts {
		if p.Note != "" {
			fmt.Fprintf(text, "%s: note: %s: %s\n", round, p.Part, p.Note)
		}
	}
}
