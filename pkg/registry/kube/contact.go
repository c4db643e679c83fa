package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
)

// remind is how often the log repeats that the API server is away.
const remind = 10 * time.Minute

// contact keeps whether the API server answers, and tells the log: once when
// it stops, now and then while it lasts, once when it is back.
type contact struct {
	host string
	log  *slog.Logger

	mu            sync.Mutex
	err           error // nil: it answers
	since, logged time.Time
}

// failed notes a request that failed. It says whether that is news.
func (c *contact) failed(err error) bool {
	// Servers refuse an expired version so that the client lists again, and old
	// ones a watch that begins with all nodes so that the client lists.
	if errors.Is(err, context.Canceled) || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.IsInvalid(err) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	news := text(c.err) != text(err)
	now := time.Now()
	if c.err == nil {
		c.since = now
	}
	c.err = err
	if now.Sub(c.logged) >= remind || c.since.Equal(now) {
		c.logged = now
		c.log.Warn("the API server does not give the nodes, which stay as they are until it does",
			"server", c.host, "since", c.since.Format(time.RFC3339), "err", advise(err))
	}
	return news
}

// succeeded notes that changes arrive.
func (c *contact) succeeded() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		return
	}
	c.log.Info("the API server gives the nodes again", "server", c.host, "after", time.Since(c.since).Round(time.Second))
	c.err, c.logged = nil, time.Time{}
}

// trouble is why the API server gives no nodes, nil if it does.
func (c *contact) trouble() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		return nil
	}
	return fmt.Errorf("the API server %s does not give them since %s: %w", c.host, c.since.Format(time.TimeOnly), advise(c.err))
}

// advise adds what to do where only a person can do it.
func advise(err error) error {
	switch {
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w: apply conf/kubernetes/rbac.yaml, or bind its role to this user", err)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%w: the token or certificate is not valid for this server", err)
	case errors.As(err, &runtime.NegotiateError{}):
		return fmt.Errorf("%w: is this the address of an API server?", err)
	}
	return err
}

// quiet makes debug messages of everything that client-go logs. What matters of
// it is logged here, and not every few seconds.
type quiet struct{ slog.Handler }

// Enabled leaves out client-go's own finer levels.
func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelDebug && q.Handler.Enabled(ctx, slog.LevelDebug)
}

// Handle lowers the level, and asks once more whether that is wanted: logr takes
// errors here without asking.
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
