package nodestate

import (
	"errors"
	"fmt"
	"time"
)

// pollInterval is how often Wait looks for the file. A pod that waits for a
// daemon that just started loses half of it on average; a look takes a few
// microseconds.
const pollInterval = 50 * time.Millisecond

// Wait is Read, but gives the daemon up to limit to publish. When the limit is
// over, the error is ErrNotPublished. A file that can't be used is an error at
// once: only the daemon's restart would mend it.
func Wait(dir string, limit time.Duration) (State, error) {
	state, err := Read(dir)
	if !errors.Is(err, ErrNotPublished) || limit <= 0 {
		return state, err
	}
	late, look := time.After(limit), time.NewTicker(pollInterval)
	defer look.Stop()
	for {
		select {
		case <-look.C:
			if state, err = Read(dir); !errors.Is(err, ErrNotPublished) {
				return state, err
			}
		case <-late:
			return State{}, fmt.Errorf("waited %s: %w", limit, err)
		}
	}
}
