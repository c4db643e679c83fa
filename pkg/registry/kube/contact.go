package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
)

// remind is how often the log repeats that nodes can't be watched.
const remind = 10 * time.Minute

// contact remembers whether nodes can be watched. It logs the beginning of an
// outage, a reminder every ten minutes, and the end.
type contact struct {
	host string
	log  *slog.Logger

	mu            sync.Mutex
	err           error // nil: no outage
	since, logged time.Time
}

// failed records that a request failed. It reports whether the error differs from
// the last one.
func (c *contact) failed(err error) (changed bool) {
	// These answers are normal. They make the client list again: the resource
	// version has expired, or a server older than Kubernetes 1.32 refuses a watch
	// that begins with all nodes.
	if errors.Is(err, context.Canceled) || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.IsInvalid(err) {
		return false
	}
	err = lasting(err)
	c.mu.Lock()
	defer c.mu.Unlock()
	changed = text(c.err) != text(err)
	now := time.Now()
	if c.err == nil {
		c.since = now
	}
	c.err = err
	if now.Sub(c.logged) >= remind || c.since.Equal(now) {
		c.logged = now
		c.log.Warn("can't watch nodes, keeping the last known ones",
			"server", c.host, "since", c.since.Format(time.RFC3339), "err", advise(err))
	}
	return changed
}

// succeeded records that a watch was accepted.
func (c *contact) succeeded() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		return
	}
	c.log.Info("watching nodes again", "server", c.host, "outage", time.Since(c.since).Round(time.Second))
	c.err, c.logged = nil, time.Time{}
}

// trouble returns why nodes can't be watched, or nil.
func (c *contact) trouble() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		return nil
	}
	return fmt.Errorf("the API server %s has not sent the nodes since %s: %w", c.host, c.since.Format(time.TimeOnly), advise(c.err))
}

// lasting returns an error without what differs from one attempt to the next: the
// request, whose timeout is random, and this host's port. So the same outage has the
// same text.
func lasting(err error) error {
	if request := (*url.Error)(nil); errors.As(err, &request) {
		err = request.Err
	}
	if op := (*net.OpError)(nil); errors.As(err, &op) && op.Addr != nil {
		far := *op
		far.Source = nil
		return &far
	}
	return err
}

// advise adds a remedy to errors that only an administrator can resolve.
func advise(err error) error {
	switch {
	case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "ValidatingAdmissionPolicy"):
		return fmt.Errorf("%w: the token has to be that of a pod on this node, as Kubernetes 1.30 and later give it to the DaemonSet, and nodeName the node's name", err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w: apply conf/kubernetes/rbac.yaml, or bind its role to this user", err)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%w: the token or certificate is not valid for this server", err)
	case errors.As(err, &runtime.NegotiateError{}):
		return fmt.Errorf("%w: is this the address of an API server?", err)
	}
	return err
}

// quiet turns all log lines of client-go into debug lines. client-go repeats an
// error every few seconds; contact logs the same outage less often.
type quiet struct{ slog.Handler }

// Enabled drops the levels of client-go that are more verbose than debug.
func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelDebug && q.Handler.Enabled(ctx, slog.LevelDebug)
}

// Handle lowers the level to debug. It checks again that debug is enabled, because
// logr logs errors without calling Enabled.
func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	if !q.Handler.Enabled(ctx, slog.LevelDebug) {
		return nil
	}
	r.Level = slog.LevelDebug
	return q.Handler.Handle(ctx, r)
}

// WithAttrs stays quiet.
func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }

// WithGroup stays quiet.
func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
