package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

const (
	// networkUnavailable is the condition's type. Kubernetes schedules no pods on a
	// node while the condition is True.
	networkUnavailable = "NetworkUnavailable"

	reasonUp       = "OverlayIsUp"
	reasonDegraded = "OverlayIsDegraded"
	reasonDown     = "OverlayIsDown"
	messageUp      = "overlayd has set up this node's pod network"
	// maxMessageText, in bytes, keeps a long error from filling the Node object.
	maxMessageText = 1024
)

// conditionOf returns the wanted condition. A node whose network is up in spite of some
// trouble stays available.
func conditionOf(r registry.Report) condition {
	switch {
	case r.Down != nil:
		return condition{"True", reasonDown, shortMessage(r.Down)}
	case r.Trouble != nil:
		return condition{"False", reasonDegraded, shortMessage(r.Trouble)}
	}
	return condition{"False", reasonUp, messageUp}
}

func shortMessage(err error) string {
	message := err.Error()
	if len(message) > maxMessageText {
		message = strings.ToValidUTF8(message[:maxMessageText], "") + "..."
	}
	return message
}

// patchCondition is a condition in the API's JSON form.
type patchCondition struct {
	Type               string     `json:"type"`
	Status             string     `json:"status"`
	Reason             string     `json:"reason"`
	Message            string     `json:"message"`
	LastHeartbeatTime  time.Time  `json:"lastHeartbeatTime"`
	LastTransitionTime *time.Time `json:"lastTransitionTime,omitempty"`
}

// patchOf returns the strategic merge patch that sets the condition. A strategic
// merge finds a condition by its type, so the patch leaves other conditions alone.
// It sets the transition time only if the status changes, not if only the reason
// changes.
func patchOf(have, want condition, now time.Time) ([]byte, error) {
	now = now.UTC().Truncate(time.Second)
	c := patchCondition{
		Type: networkUnavailable, Status: want.status, Reason: want.reason, Message: want.message,
		LastHeartbeatTime: now,
	}
	if have.status != want.status {
		c.LastTransitionTime = &now
	}
	return json.Marshal(map[string]any{"status": map[string]any{"conditions": []patchCondition{c}}})
}

// pauses are the waits between two patches.
type pauses struct {
	// afterSuccess limits the rate of patches when the network goes up and down,
	// or when another controller keeps setting the same condition.
	afterSuccess time.Duration
	// A failed patch is repeated after first. The wait doubles with every further
	// failure, up to last.
	first, last time.Duration
}

func defaultPauses() pauses {
	return pauses{afterSuccess: 5 * time.Second, first: time.Second, last: time.Minute}
}

// reporter sets the condition of this host's Node to the last wanted one.
type reporter struct {
	patch  func(context.Context, []byte) (condition, error)
	pauses pauses
	log    *slog.Logger
	wake   chan struct{}

	mu sync.Mutex
	// want is nil until the first call of setWant. have is the condition in the API;
	// nil: the node was not listed yet, or does not exist.
	want, have *condition
	// seen counts the watch's notifications about the node.
	seen uint64
}

// setWant sets the wanted condition.
func (r *reporter) setWant(want condition) { r.update(func() { r.want = &want }) }

// setHave takes over the condition that the watch reported. nil means that the
// node does not exist.
func (r *reporter) setHave(have *condition) { r.update(func() { r.have, r.seen = have, r.seen+1 }) }

// patched takes over the condition that the API server returned for a patch. seen
// is the reporter's count when the patch was made. If the watch has reported the
// node since, patched ignores the answer: the report may be about a later change,
// or about a new node with the same name. If the report was about an earlier
// change, the watch reports the patch next.
func (r *reporter) patched(have condition, seen uint64) {
	r.update(func() {
		if r.seen == seen {
			r.have = &have
		}
	})
}

// update calls change under the lock, and wakes run if a patch is needed then.
func (r *reporter) update(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
	if !r.differs() {
		return
	}
	select {
	case r.wake <- struct{}{}:
	default: // run has been woken already
	}
}

// differs reports whether a patch is needed.
func (r *reporter) differs() bool { return r.want != nil && r.have != nil && *r.want != *r.have }

// task is a patch to make.
type task struct {
	have, want condition
	seen       uint64 // the reporter's count together with have
}

// pending returns the patch that is needed, if any.
func (r *reporter) pending() (t task, needed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.differs() {
		return task{}, false
	}
	return task{*r.have, *r.want, r.seen}, true
}

// run patches the node whenever its condition is not the wanted one, until ctx
// ends.
func (r *reporter) run(ctx context.Context) {
	var delay time.Duration // after a failure; 0 if there was none
	for {
		pause := r.pauses.afterSuccess
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
		err := r.patchOnce(ctx)
		if err != nil && ctx.Err() == nil {
			if delay == 0 {
				r.log.Warn("can't set the node condition, retrying", "condition", networkUnavailable, "err", advise(err))
			}
			delay = min(max(2*delay, r.pauses.first), r.pauses.last)
			pause = delay
		} else {
			delay = 0
		}
		if !sleep(ctx, pause) {
			return
		}
		r.update(func() {}) // wakes the loop again after a failure
	}
}

// patchOnce makes a patch if one is needed.
func (r *reporter) patchOnce(ctx context.Context) error {
	t, needed := r.pending()
	if !needed {
		return nil
	}
	body, err := patchOf(t.have, t.want, time.Now())
	if err != nil {
		return fmt.Errorf("encode the patch: %w", err)
	}
	now, err := r.patch(ctx, body)
	if err != nil {
		return err
	}
	r.patched(now, t.seen)
	r.log.Info("set the node condition", "condition", networkUnavailable, "status", t.want.status, "reason", t.want.reason, "message", t.want.message)
	return nil
}

// sleep waits for d. It returns false if ctx ends before.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
