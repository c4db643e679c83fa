package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

const (
	// networkUnavailable is the condition's type: Kubernetes gives no pods to
	// a node while it is True.
	networkUnavailable = "NetworkUnavailable"

	reasonUp   = "OverlayIsUp"
	reasonDown = "OverlayIsDown"
	messageUp  = "overlayd has set up this node's pod network"
	// maxMessageText keeps a long error from filling the Node object, in bytes.
	maxMessageText = 1024
)

// conditionOf is what the condition is to be; down is why this node's pod
// network is not up, nil if it is.
func conditionOf(down error) condition {
	if down == nil {
		return condition{"False", reasonUp, messageUp}
	}
	message := down.Error()
	if len(message) > maxMessageText {
		message = strings.ToValidUTF8(message[:maxMessageText], "") + "..."
	}
	return condition{"True", reasonDown, message}
}

// patchCondition is a condition as the API has it.
type patchCondition struct {
	Type               string     `json:"type"`
	Status             string     `json:"status"`
	Reason             string     `json:"reason"`
	Message            string     `json:"message"`
	LastHeartbeatTime  time.Time  `json:"lastHeartbeatTime"`
	LastTransitionTime *time.Time `json:"lastTransitionTime,omitempty"`
}

// patchOf is the strategic merge patch, which goes by the condition's type and
// leaves all others as they are. The time of transition is that of the status:
// another reason for the same status is none.
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

// pauses are those between two patches.
type pauses struct {
	// calm comes after one that succeeded: another controller that sets the
	// condition, or a network that comes and goes, must not make a stream.
	calm time.Duration
	// A patch that fails is tried again after first, and then twice as long
	// every time up to last.
	first, last time.Duration
}

func defaultPauses() pauses {
	return pauses{calm: 5 * time.Second, first: time.Second, last: time.Minute}
}

// reporter keeps the own node's condition as it was asked for last.
type reporter struct {
	patch  func(context.Context, []byte) (condition, error)
	pauses pauses
	log    *slog.Logger
	wake   chan struct{}

	mu sync.Mutex
	// want is nil until it was asked for, have until the node was listed.
	want, have *condition
	// seen counts what the watch said of the node.
	seen uint64
}

// ask says what the condition is to be.
func (r *reporter) ask(want condition) { r.note(func() { r.want = &want }) }

// see says what the condition is by the watch; nil, that there is no such node.
func (r *reporter) see(have *condition) { r.note(func() { r.have, r.seen = have, r.seen+1 }) }

// answered says what the condition was right after a patch, which was made when
// the watch had spoken seen times. If it spoke since, its word stands: it may be
// about a later change, or another node of that name. If it was about an earlier
// one, the patch's own comes after it.
func (r *reporter) answered(have condition, seen uint64) {
	r.note(func() {
		if r.seen == seen {
			r.have = &have
		}
	})
}

// note changes what is known, and wakes run where that asks for a patch.
func (r *reporter) note(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
	if !r.differs() {
		return
	}
	select {
	case r.wake <- struct{}{}:
	default: // it is to look already
	}
}

// differs reports whether a patch is needed.
func (r *reporter) differs() bool { return r.want != nil && r.have != nil && *r.want != *r.have }

// task is a patch to make.
type task struct {
	have, want condition
	seen       uint64 // as the reporter's, when have was so
}

// due is what to patch, if anything.
func (r *reporter) due() (t task, needed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.differs() {
		return task{}, false
	}
	return task{*r.have, *r.want, r.seen}, true
}

// run patches whenever the condition is not what it is to be, until ctx ends.
func (r *reporter) run(ctx context.Context) {
	var delay time.Duration // after a failure; 0 if there was none
	for {
		pause := r.pauses.calm
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
		err := r.once(ctx)
		if err != nil && ctx.Err() == nil {
			if delay == 0 {
				r.log.Warn("the node's condition "+networkUnavailable+" can't be set and is tried again", "err", advise(err))
			}
			delay = min(max(2*delay, r.pauses.first), r.pauses.last)
			pause = delay
		} else {
			delay = 0
		}
		if !stay(ctx, pause) {
			return
		}
		r.note(func() {}) // what changed meanwhile, or failed
	}
}

// once makes one patch if one is needed.
func (r *reporter) once(ctx context.Context) error {
	t, needed := r.due()
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
	r.answered(now, t.seen)
	r.log.Info("set the node's condition "+networkUnavailable, "status", t.want.status, "reason", t.want.reason, "message", t.want.message)
	return nil
}

// stay returns after d, or false when ctx ends before.
func stay(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
