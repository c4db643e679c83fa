package reconcile

import (
	"context"
	"log/slog"
	"time"
)

const (
	// gap keeps a burst of triggers from becoming a burst of runs.
	gap = 50 * time.Millisecond
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

// Loop is a reconcile loop. Make it with New.
type Loop struct {
	sync   func(context.Context) error
	resync time.Duration
	log    *slog.Logger
	wake   chan struct{}
}

// New returns a loop that calls sync, at least every resync.
func New(sync func(context.Context) error, resync time.Duration, log *slog.Logger) *Loop {
	return &Loop{sync: sync, resync: resync, log: log, wake: make(chan struct{}, 1)}
}

// Trigger asks for another run. It never blocks.
func (l *Loop) Trigger() {
	select {
	case l.wake <- struct{}{}:
	default: // one is asked for already
	}
}

// Run runs sync at once, and then as asked for until ctx ends.
func (l *Loop) Run(ctx context.Context) {
	var failures schedule
	for ctx.Err() == nil {
		started := time.Now()
		err := l.sync(ctx)
		if ctx.Err() != nil {
			return
		}
		failures.note(err, started, l.log)
		if err == nil {
			l.log.Debug("reconciled", "took", time.Since(started))
			l.wait(ctx, l.resync, gap)
		} else {
			l.wait(ctx, failures.delay, min(failures.delay, eagerRetry))
		}
	}
}

// wait returns after limit, or when triggered, but not before least.
func (l *Loop) wait(ctx context.Context, limit, least time.Duration) {
	// Triggers that come before least is over stay in the channel.
	first := time.NewTimer(least)
	defer first.Stop()
	select {
	case <-ctx.Done():
		return
	case <-first.C:
	}
	rest := time.NewTimer(max(limit-least, 0))
	defer rest.Stop()
	select {
	case <-ctx.Done():
	case <-l.wake:
	case <-rest.C:
	}
}

// schedule decides when a failure is tried again and when it is logged.
type schedule struct {
	delay  time.Duration // 0: the last run succeeded
	text   string        // of the error that was logged last
	logged time.Time
}

func (s *schedule) note(err error, now time.Time, log *slog.Logger) {
	if err == nil {
		if s.delay > 0 {
			log.Info("all is well again")
		}
		*s = schedule{}
		return
	}
	s.delay = min(max(2*s.delay, firstRetry), lastRetry)
	if s.text == err.Error() && now.Sub(s.logged) < repeat {
		return
	}
	s.text, s.logged = err.Error(), now
	log.Error("reconciling failed and is tried again", "err", err, "next", s.delay)
}
