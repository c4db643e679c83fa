package health

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/part"
)

func TestReady(t *testing.T) {
	failure := errors.New("no underlay")
	peer := errors.New("peer \"b\" is left out")
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	contest := part.Contest{What: "delete address 10.9.9.9/32", Times: 7, Since: time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC), Pause: 8 * time.Second}
	b := NewTracker("network", "pods")
	b.now = func() time.Time { return now }
	for _, step := range []struct {
		name    string
		network Status
		ready   bool
		want    string
	}{
		{"down", Status{Down: failure}, false, "network: down since 2026-01-02T03:04:06Z: no underlay\npods: ok\n"},
		{"still down", Status{Down: failure}, false, "network: down since 2026-01-02T03:04:06Z: no underlay\npods: ok\n"},
		{"degraded", Status{Degraded: peer}, true, "network: degraded since 2026-01-02T03:04:08Z: peer \"b\" is left out\npods: ok\n"},
		{"both", Status{Down: failure, Degraded: peer}, false,
			"network: down since 2026-01-02T03:04:09Z: no underlay\nnetwork: degraded since 2026-01-02T03:04:09Z: peer \"b\" is left out\npods: ok\n"},
		{"well", Status{}, true, "network: ok\npods: ok\n"},
		{"another program undoes a part", Status{Parts: []part.Numbers{{Part: "bridge"}, {Part: "tunnel", Contest: contest}}}, true,
			"network: degraded since 2026-01-02T03:00:00Z: tunnel: " + contest.Text() + "\npods: ok\n"},
		{"well, with a part's note", Status{Parts: []part.Numbers{{Part: "tunnel", Note: "overlay0 has the qdisc pfifo"}}}, true,
			"network: ok\nnetwork: note: tunnel: overlay0 has the qdisc pfifo\npods: ok\n"},
		{"well, with a note", Status{Note: "b has IPv4 alone"}, true, "network: ok\nnetwork: note: b has IPv4 alone\npods: ok\n"},
	} {
		now = now.Add(time.Second)
		b.Set("network", step.network)
		b.Set("pods", Status{})
		if ready, text := b.Ready(); ready != step.ready || text != step.want {
			t.Errorf("%s: got %v\n%swant %v\n%s", step.name, ready, text, step.ready, step.want)
		}
	}
}

func TestNothingIsReadyBeforeTheFirstRound(t *testing.T) {
	b := NewTracker("network", "pods")
	b.Set("pods", Status{})
	if ready, text := b.Ready(); ready {
		t.Errorf("ready: %s", text)
	}
}

func TestServe(t *testing.T) {
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := NewTracker("network")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, b.Handler()) }()
	get := func(path string) int {
		t.Helper()
		r, err := http.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		if _, err := io.ReadAll(r.Body); err != nil {
			t.Fatal(err)
		}
		return r.StatusCode
	}
	if got := []int{get("/healthz"), get("/readyz"), get("/none")}; got[0] != 200 || got[1] != 503 || got[2] != 404 {
		t.Errorf("got %v before the first round", got)
	}
	b.Set("network", Status{})
	if got := get("/readyz"); got != 200 {
		t.Errorf("got %v when all is well", got)
	}
	if _, err := Listen(l.Addr().String()); err == nil {
		t.Error("an address that is taken is opened")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
