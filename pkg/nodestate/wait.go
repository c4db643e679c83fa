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

// Wait is Read, but waits up to limit for the daemon to publish. After that the
// error is ErrNotPublished. If the file can't be used, Wait fails at once,
// because only a restart of the daemon would repair the file.
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
