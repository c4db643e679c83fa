package probe

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// attemptTime bounds one attempt: an answer that is lost must not use up
	// the time for the following attempts.
	attemptTime = 200 * time.Millisecond
	// attemptEvery finds a change within milliseconds without filling a core.
	attemptEvery = 20 * time.Millisecond
)

// Eventually calls attempt until it succeeds or ctx ends, and then returns the
// last attempt's error. It is for things that nobody can subscribe to.
func Eventually(ctx context.Context, attempt func(context.Context) error) error {
	ticker := time.NewTicker(attemptEvery)
	defer ticker.Stop()
	for {
		err := once(ctx, attempt)
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
		// Checked apart: with both ready, select would take either.
		if ctx.Err() != nil {
			return fmt.Errorf("still failing: %w", errors.Join(context.Cause(ctx), err))
		}
	}
}

func once(ctx context.Context, attempt func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	return attempt(ctx)
}
