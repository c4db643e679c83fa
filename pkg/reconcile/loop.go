package reconcile

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"
)

const (
	// A run that failed is repeated after firstRetry. The wait doubles with every
	// further failure, up to lastRetry.
	firstRetry = 200 * time.Millisecond
	lastRetry  = 30 * time.Second
	// eagerRetry is the longest wait if something changed since the failure: the
	// change may have removed its cause.
	eagerRetry = time.Second
	// repeat is the shortest time between two log lines with the same error.
	repeat = time.Minute
)

// Config describes a loop.
type Config struct {
	// Name is the loop's name in the log.
	Name string
	// Sync compares the actual state with the desired state, and corrects it.
	Sync func(context.Context) error
	// Resync is the longest time between two runs.
	Resync time.Duration
	// Pause is the shortest time between two runs, so that a burst of triggers does
	// not become a burst of runs.
	Pause time.Duration
	// Settle is how long a run waits for further triggers after its first one.
	Settle time.Duration
	// Due returns after what time another run is due without a trigger, earlier than
	// Resync. 0 means never, as does a nil Due.
	Due func() time.Duration
	Log *slog.Logger
}

// Loop is a reconcile loop. Make it with New.
type Loop struct {
	Config
	wake  chan struct{}
	later atomic.Bool // a Trigger is on its way
}

// New returns a loop that is not running yet.
func New(c Config) *Loop { return &Loop{Config: c, wake: make(chan struct{}, 1)} }

// Trigger asks for another run. It never blocks.
func (l *Loop) Trigger() {
	select {
	case l.wake <- struct{}{}:
	default: // another run is due already
	}
}

// TriggerLater is Trigger after a time. What it is called for meanwhile waits for the
// same run.
func (l *Loop) TriggerLater(d time.Duration) {
	if l.later.Swap(true) {
		return
	}
	time.AfterFunc(d, func() {
		l.later.Store(false) // first, so that no later call is lost
		l.Trigger()
	})
}

// Run calls Sync at once, then after each trigger, failure and Resync, until ctx
// ends.
func (l *Loop) Run(ctx context.Context) {
	failures := schedule{name: l.Name}
	for ctx.Err() == nil {
		started := time.Now()
		err := l.Sync(ctx)
		if ctx.Err() != nil {
			return
		}
		failures.note(err, started, l.Log)
		if err == nil {
			l.Log.Debug("reconciled", "round", l.Name, "took", time.Since(started))
			l.wait(ctx, l.sooner(l.Resync), l.Pause)
		} else {
			l.wait(ctx, l.sooner(failures.delay), min(failures.delay, max(eagerRetry, l.Pause)))
		}
	}
}

// sooner returns the limit, or when a run is due before it.
func (l *Loop) sooner(limit time.Duration) time.Duration {
	if l.Due == nil {
		return limit
	}
	if due := l.Due(); due > 0 {
		return min(due, limit)
	}
	return limit
}

// wait returns after limit, or after a trigger, but not before least.
func (l *Loop) wait(ctx context.Context, limit, least time.Duration) {
	// A trigger that comes before least is over stays in the channel.
	if !pass(ctx, least) {
		return
	}
	rest := time.NewTimer(max(limit-least, 0))
	defer rest.Stop()
	select {
	case <-ctx.Done():
	case <-l.wake:
		pass(ctx, l.Settle)
		select {
		case <-l.wake: // the coming run serves this trigger too
		default:
		}
	case <-rest.C:
	}
}

// pass waits. It reports whether the time went by before ctx ended.
func pass(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// schedule decides when a failed run is repeated and when its error is logged.
type schedule struct {
	name   string
	delay  time.Duration // 0: the last run succeeded
	text   string        // of the error that was logged last
	logged time.Time
}

func (s *schedule) note(err error, now time.Time, log *slog.Logger) {
	if err == nil {
		if s.delay > 0 {
			log.Info("all is well again", "round", s.name)
		}
		*s = schedule{name: s.name}
		return
	}
	s.delay = min(max(2*s.delay, firstRetry), lastRetry)
	if s.text == err.Error() && now.Sub(s.logged) < repeat {
		return
	}
	s.text, s.logged = err.Error(), now
	log.Error("a round failed", "round", s.name, "err", err, "retryIn", s.delay)
}
