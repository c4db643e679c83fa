package nodestate

import (
	"errors"
	"fmt"
	"time"
)

// pollInterval is how often Wait looks for the file. A pod that waits for the
// daemon loses half of this interval on average; one check of the file takes a
// few microseconds.
const pollInterval = 50 * time.Millisecond

// Wait is Read, but waits up to limit for the daemon to publish, or to replace a
// damaged file. After that the error is ErrNotPublished or ErrDamaged.
func Wait(dir string, limit time.Duration) (State, error) {
	state, err := Read(dir)
	if !Passes(err) || limit <= 0 {
		return state, err
	}
	late, look := time.After(limit), time.NewTicker(pollInterval)
	defer look.Stop()
	for {
		select {
		case <-look.C:
			if state, err = Read(dir); !Passes(err) {
				return state, err
			}
		case <-late:
			return State{}, fmt.Errorf("waited %s: %w", limit, err)
		}
	}
}

// Passes reports whether an error of Read or Wait goes away as soon as the daemon has
// done its work.
func Passes(err error) bool { return errors.Is(err, ErrNotPublished) || errors.Is(err, ErrDamaged) }
