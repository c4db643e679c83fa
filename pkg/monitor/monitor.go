package monitor

import (
	"context"
	"errors"

	"github.com/overlay-cni/overlay-cni/internal/nl"
)

// Change is a set of things that a notification may concern.
type Change uint8

const (
	// Network stands for the tunnel, the bridge, the underlay, their routes,
	// addresses and sysctls, and for the firewall's rules.
	Network Change = 1 << iota
	// Pods stands for pods' ports on the bridge and on the host. They come and go
	// all the time, so most of these changes are the plugin's own.
	Pods
)

// subscription is the source of notifications for follow. concerns receives all
// pending notifications, and returns the union of the changes that they report.
type subscription struct {
	*nl.Subscription
	concerns func() (Change, error)
}

// follow calls changed for the notifications of a subscription until ctx ends, and
// closes the subscription.
func follow(ctx context.Context, s subscription, changed func(Change)) error {
	defer func() { _ = s.Close() }()
	defer context.AfterFunc(ctx, s.Interrupt)()
	changed(Network | Pods)
	for {
		err := s.Wait()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		c, err := s.concerns()
		switch {
		case errors.Is(err, nl.ErrLost):
			changed(Network | Pods)
		case err != nil:
			return err
		case c != 0:
			changed(c)
		}
	}
}
