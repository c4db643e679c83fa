package attachment

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/network"
)

// The error about a lock that is never released names the process that holds it.
// Once it is released, the goroutine that gave up waiting doesn't hold it.
func TestLockIsNotWaitedForForEver(t *testing.T) {
	s := Open(t.TempDir(), network.Default)
	k := Owner{"c", "eth0"}.Key()
	holding, err := s.Lock(k)
	if err != nil {
		t.Fatal(err)
	}
	s.patience = time.Millisecond
	_, err = s.LockForRemoval(k)
	want := []string{s.path(k), "for 1ms", fmt.Sprintf("process %d,", os.Getpid())}
	for _, w := range want {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("%v does not tell %q", err, w)
		}
	}
	if !errors.Is(err, ErrBusy) {
		t.Errorf("%v is not ErrBusy", err)
	}
	if err := holding.Close(); err != nil {
		t.Fatal(err)
	}
	s.patience = lockPatience
	again, err := s.LockExisting(k)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// A process that waits gets the lock as soon as it is released, and keeps it.
func TestLockIsWaitedFor(t *testing.T) {
	s := Open(t.TempDir(), network.Default)
	k := Owner{"c", "eth0"}.Key()
	holding, err := s.Lock(k)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	var waiting *Attachment
	go func() {
		var err error
		waiting, err = s.LockExisting(k)
		got <- err
	}()
	if _, err := s.TryLock(k); !errors.Is(err, ErrBusy) {
		t.Errorf("got %v for a lock that is taken", err)
	}
	if err := holding.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if _, err := s.TryLock(k); !errors.Is(err, ErrBusy) {
		t.Errorf("got %v for a lock that was waited for", err)
	}
	if err := waiting.Close(); err != nil {
		t.Error(err)
	}
}
