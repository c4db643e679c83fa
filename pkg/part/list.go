package part

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// List is the parts of a host, in the order in which Sync syncs them.
//
// If somebody undoes what a part sets, again and again, Sync leaves the part alone for
// growing pauses: two programs that fight at full speed keep a CPU busy and fill the
// log, and neither wins. Renew ends such pauses.
//
// Numbers and Contested are for any goroutine, everything else for one at a time.
type List[D any] struct {
	parts []Part[D]
	log   *slog.Logger

	contests []contest // of the part with the same index
	renewed  bool

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
	Undone   int           // changes that were made before, with the same desired state
	Contest  Contest       // over the part, at the moment
	Note     string        // what the part leaves alone, though it may matter
}

// InRound returns the parts that one loop of the daemon syncs.
func InRound[D any](round string, parts []Part[D]) []Part[D] {
	return slices.DeleteFunc(slices.Clone(parts), func(p Part[D]) bool { return p.Round != round })
}

// NewList returns a list that logs what its parts change. The resync interval bounds
// how long a part is left alone.
func NewList[D any](log *slog.Logger, resync time.Duration, parts ...Part[D]) *List[D] {
	l := &List[D]{parts: parts, log: log, numbers: make([]Numbers, len(parts)), renewed: true}
	for i, p := range parts {
		l.numbers[i].Part = p.Name
		l.contests = append(l.contests, newContest(resync))
	}
	return l
}

// Renew says that the desired state of the next Sync is another one, or that the last
// Sync is long ago. So that Sync leaves no part alone, and what it changes is nobody
// else's doing.
func (l *List[D]) Renew() { l.renewed = true }

// Contested reports whether there is a contest over one of the parts. Any goroutine may
// call it.
func (l *List[D]) Contested() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.numbers, func(n Numbers) bool { return n.Contest != Contest{} })
}

// Due returns after what time Sync is due because of parts that were left alone, or
// whose contest may be over. It is 0 if there are none.
func (l *List[D]) Due() time.Duration {
	now := time.Now()
	var first time.Duration
	for i := range l.contests {
		if at := l.contests[i].due(now); at.After(now) && (first == 0 || at.Sub(now) < first) {
			first = at.Sub(now)
		}
	}
	return first
}

// Sync syncs every part with the desired state, except those that are left alone: they
// count as before. A part that fails stops only the parts that need it. down joins the
// errors that cut off this host's pods, degraded joins the minor ones. Each error
// names its part.
func (l *List[D]) Sync(want D) (down, degraded error) {
	defer func() { l.renewed = false }()
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
	p, begin := l.parts[i], time.Now()
	if p.Sync == nil {
		return nil
	}
	if !l.renewed && l.contests[i].holds(begin) {
		return named(p.Name, l.numbers[i].Err)
	}
	changes, err := p.Sync(want)
	l.judge(i, changes)
	l.count(i, begin, len(changes), err)
	l.note(i)
	return named(p.Name, err)
}

func named(part string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", part, err)
}

// judge finds out whether somebody undoes the part's changes, and logs them: contested
// ones only if all is to be logged.
func (l *List[D]) judge(i int, changes []string) {
	c, name, now := &l.contests[i], l.parts[i].Name, time.Now()
	before := c.summary()
	if ended := c.expire(now); ended {
		l.log.Info("nobody undoes the change any more", "part", name, "change", before.What, "times", before.Times, "since", before.Since)
	}
	logged := slices.DeleteFunc(slices.Clone(changes), c.contests)
	if undone := len(changes) - len(logged); undone > 0 {
		l.log.Debug("changed the host again", "part", name, "changes", undone)
	}
	if len(logged) > 0 {
		l.log.Info("changed the host", "part", name, "changes", summary(logged))
	}
	undone := 0
	if !l.renewed {
		undone = c.note(changes, now)
	}
	after := c.summary()
	if before.What == "" && after.What != "" {
		l.log.Warn("another program undoes a change again and again, so it is repaired more rarely",
			"part", name, "change", after.What, "times", after.Times, "since", after.Since, "advice", advice)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.numbers[i].Undone += undone
	l.numbers[i].Contest = after
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

// note takes over what the part saw and left alone, and logs it if it is new.
func (l *List[D]) note(i int) {
	if l.parts[i].Notes == nil {
		return
	}
	note := strings.Join(l.parts[i].Notes(), "; ")
	l.mu.Lock()
	changed := l.numbers[i].Note != note
	l.numbers[i].Note = note
	l.mu.Unlock()
	if changed {
		l.log.Info("left alone, though it may matter", "part", l.parts[i].Name, "what", cmp.Or(note, "nothing any more"))
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
