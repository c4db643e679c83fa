package reconcile

import (
	"context"
	"log/slog"
	"time"
)

const (
	// A run that fails is tried again after firstRetry, then twice as long
	// every time up to lastRetry.
	firstRetry = 200 * time.Millisecond
	lastRetry  = 30 * time.Second
	// eagerRetry is the longest wait when something changed since it failed:
	// it may have been what was missing.
	eagerRetry = time.Second
	// repeat is how often the same error is logged.
	repeat = time.Minute
)

// Config describes a loop.
type Config struct {
	// Name is the loop's name in the log.
	Name string
	// Sync makes the world as it should be.
	Sync func(context.Context) error
	// Resync is the longest time between two runs.
	Resync time.Duration
	// Pause is the shortest time between two runs: it keeps a burst of triggers
	// from becoming a burst of runs.
	Pause time.Duration
	// Settle is how long a run waits after what triggered it, for more of the
	// same to come.
	Settle time.Duration
	Log    *slog.Logger
}

// Loop is a reconcile loop. Make it with New.
type Loop struct {
	Config
	wake chan struct{}
}

// New returns a loop that is not running yet.
func New(c Config) *Loop { return &Loop{Config: c, wake: make(chan struct{}, 1)} }

// Trigger asks for another run. It never blocks.
func (l *Loop) Trigger() {
	select {
	case l.wake <- struct{}{}:
	default: // one is asked for already
	}
}

// Run calls Sync at once, and then as asked for until ctx ends.
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
			l.Log.Debug("reconciled "+l.Name, "took", time.Since(started))
			l.wait(ctx, l.Resync, l.Pause)
		} else {
			l.wait(ctx, failures.delay, min(failures.delay, max(eagerRetry, l.Pause)))
		}
	}
}

// wait returns after limit, or when triggered, but not before least.
func (l *Loop) wait(ctx context.Context, limit, least time.Duration) {
	// Triggers that come before least is over stay in the channel.
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
		case <-l.wake: // it is part of what the coming run looks at
		default:
		}
	case <-rest.C:
	}
}

// pass lets time go by, unless ctx ends.
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

// schedule decides when a failure is tried again and when it is logged.
type schedule struct {
	name   string
	delay  time.Duration // 0: the last run succeeded
	text   string        // of the error that was logged last
	logged time.Time
}

func (s *schedule) note(err error, now time.Time, log *slog.Logger) {
	if err == nil {
		if s.delay > 0 {
			log.Info("all is well again", "with", s.name)
		}
		*s = schedule{name: s.name}
		return
	}
	s.delay = min(max(2*s.delay, firstRetry), lastRetry)
	if s.text == err.Error() && now.Sub(s.logged) < repeat {
		return
	}
	s.text, s.logged = err.Error(), now
	log.Error("reconciling "+s.name+" failed and is tried again", "err", err, "next", s.delay)
}
