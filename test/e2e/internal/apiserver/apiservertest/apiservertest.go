// Package apiservertest gives tests an apiserver.
package apiservertest

import (
	"context"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/test/e2e/internal/apiserver"
)

// StartTime bounds the time until an apiserver is ready. It takes three seconds
// on two cores that have nothing else to do.
const StartTime = time.Minute

// Start starts an apiserver with its etcd in the network namespace of the
// calling thread. They end with the test. Without Options.Dir their files are in a
// folder of the test's.
func Start(t testing.TB, o apiserver.Options) *apiserver.Server {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	ctx, cancel := context.WithTimeout(t.Context(), StartTime)
	defer cancel()
	s, err := apiserver.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// AwaitReady waits until the apiserver is ready again.
func AwaitReady(t testing.TB, s *apiserver.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), StartTime)
	defer cancel()
	if err := s.AwaitReady(ctx); err != nil {
		t.Fatal(err)
	}
}
