package kube

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

// scripted is a reporter whose patches go into a list; fail says which fail.
func scripted(t *testing.T, fail func(number int) bool) (r *reporter, at *[]time.Duration) {
	t.Helper()
	start := time.Now()
	at = new([]time.Duration)
	r = &reporter{pauses: defaultPauses(), log: slog.New(slog.DiscardHandler), wake: make(chan struct{}, 1)}
	r.patch = func(_ context.Context, patch []byte) (condition, error) {
		*at = append(*at, time.Since(start))
		if fail(len(*at)) {
			return condition{}, errors.New("refused")
		}
		return conditionIn(t, patch), nil
	}
	go r.run(t.Context())
	return r, at
}

// conditionIn is what the server makes of a patch.
func conditionIn(t *testing.T, patch []byte) condition {
	t.Helper()
	var n corev1.Node
	if err := json.Unmarshal(patch, &n); err != nil || len(n.Status.Conditions) != 1 {
		t.Errorf("patch %s: %v", patch, err)
		return condition{}
	}
	c := n.Status.Conditions[0]
	return condition{string(c.Status), c.Reason, c.Message}
}

// later lets this time pass on the fake clock.
func later(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestReporterPatchesDifferencesOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, at := scripted(t, func(int) bool { return false })
		r.setHave(&condition{})
		later(time.Hour)
		expect(t, "before it was asked", len(*at), 0)
		r.setWant(conditionOf(registry.Report{}))
		later(time.Hour)
		expect(t, "asked", len(*at), 1)
		for range 100 {
			r.setWant(conditionOf(registry.Report{}))
			later(time.Second)
		}
		expect(t, "asked for the same", len(*at), 1)
		r.setHave(&condition{"True", "NoRouteCreated", ""})
		later(time.Hour)
		expect(t, "set by another", len(*at), 2)
		r.setHave(nil)
		r.setWant(conditionOf(registry.Report{Down: errors.New("x")}))
		later(time.Hour)
		expect(t, "the node is gone", len(*at), 2)
		r.setHave(&condition{})
		later(time.Hour)
		expect(t, "the node is back", len(*at), 3)
	})
}

// The answer to a patch may arrive after the watch has reported a later change.
func TestAnswerComesAfterTheNodeWasMadeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, at := scripted(t, func(int) bool { return false })
		answer := r.patch
		r.patch = func(ctx context.Context, patch []byte) (condition, error) {
			if len(*at) == 0 {
				r.setHave(new(conditionOf(registry.Report{})))
				r.setHave(nil)
				r.setHave(&condition{})
			}
			return answer(ctx, patch)
		}
		r.setHave(&condition{})
		r.setWant(conditionOf(registry.Report{}))
		later(time.Hour)
		expect(t, "one for each of the two nodes", len(*at), 2)
	})
}

func expect(t *testing.T, when string, got, want int) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %d patches, want %d", when, got, want)
	}
}

// A network that comes and goes makes a patch every five seconds, not more.
func TestReporterIsCalm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, at := scripted(t, func(int) bool { return false })
		r.setHave(&condition{})
		for i := range 1000 {
			var down error
			if i%3 == 0 {
				down = errors.New("down")
			}
			r.setWant(conditionOf(registry.Report{Down: down}))
			later(100 * time.Millisecond)
		}
		if got := len(*at); got > 21 {
			t.Errorf("%d patches in 100 s", got)
		}
		r.setWant(conditionOf(registry.Report{}))
		later(time.Minute)
		if *r.have != conditionOf(registry.Report{}) {
			t.Errorf("the last word was another: %+v", *r.have)
		}
	})
}

func TestReporterBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, at := scripted(t, func(number int) bool { return number < 10 })
		r.setHave(&condition{})
		r.setWant(conditionOf(registry.Report{}))
		later(time.Hour)
		var last time.Duration
		for i, want := range []time.Duration{0, 1, 2, 4, 8, 16, 32, 60, 60, 60} {
			if got := (*at)[i] - last; got != want*time.Second {
				t.Errorf("patch %d after %s, want %d s", i+1, got, want)
			}
			last = (*at)[i]
		}
		expect(t, "in all", len(*at), 10)
	})
}

func TestPatchOf(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 999, time.FixedZone("", 3600))
	for name, tt := range map[string]struct {
		have, want condition
		transition bool
	}{
		"first":          {condition{}, conditionOf(registry.Report{}), true},
		"other status":   {conditionOf(registry.Report{Down: errors.New("x")}), conditionOf(registry.Report{}), true},
		"other reason":   {condition{"False", "NoRoute", ""}, conditionOf(registry.Report{}), false},
		"degraded":       {conditionOf(registry.Report{}), conditionOf(registry.Report{Trouble: errors.New("x")}), false},
		"down anyway":    {conditionOf(registry.Report{Trouble: errors.New("x")}), conditionOf(registry.Report{Down: errors.New("y"), Trouble: errors.New("x")}), true},
		"other message":  {conditionOf(registry.Report{Down: errors.New("x")}), conditionOf(registry.Report{Down: errors.New("y")}), false},
		"a long message": {condition{}, conditionOf(registry.Report{Down: errors.New(strings.Repeat("x", 5000))}), true},
	} {
		patch, err := patchOf(tt.have, tt.want, now)
		if err != nil {
			t.Fatal(err)
		}
		if got := conditionIn(t, patch); got != tt.want || len(got.message) > 1100 {
			t.Errorf("%s: %+v, want %+v", name, got, tt.want)
		}
		var n corev1.Node
		if err := json.Unmarshal(patch, &n); err != nil {
			t.Fatal(err)
		}
		c := n.Status.Conditions[0]
		if c.Type != corev1.NodeNetworkUnavailable || !c.LastHeartbeatTime.Equal(new(metav1.NewTime(now.Truncate(time.Second)))) || c.LastTransitionTime.IsZero() == tt.transition {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

// The log tells of trouble at once, then now and then, and of its end.
func TestContactIsNoSpam(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &journal{}
		c := &contact{host: "https://x", log: slog.New(slog.NewTextHandler(log, nil))}
		c.succeeded()
		for range 3 * 60 { // an hour, a failure every 20 s
			c.failed(errors.New("connection refused"))
			later(20 * time.Second)
		}
		if got := strings.Count(log.String(), "level=WARN"); got != 6 {
			t.Errorf("%d warnings in an hour:\n%s", got, log)
		}
		c.succeeded()
		c.succeeded()
		if got := strings.Count(log.String(), "level=INFO"); got != 1 || !strings.Contains(log.String(), "outage=1h0m0s") || c.trouble() != nil {
			t.Errorf("%d lines of its end:\n%s", got, log)
		}
		c.failed(errors.New("again"))
		if got := strings.Count(log.String(), "level=WARN"); got != 7 {
			t.Errorf("%d warnings after new trouble", got)
		}
		c.failed(context.Canceled)
		if got := c.trouble(); got == nil || strings.Contains(got.Error(), "canceled") {
			t.Errorf("trouble is %v", got)
		}
	})
}

// Both refusals have one code, and different remedies.
func TestAdviceForForbidden(t *testing.T) {
	nodes := schema.GroupResource{Resource: "nodes"}
	for reason, want := range map[string]string{
		`User "x" cannot patch resource "nodes/status"`:                  "apply conf/kubernetes/rbac.yaml",
		"ValidatingAdmissionPolicy 'overlay-cni' with binding denied it": "the token has to be that of a pod on this node",
	} {
		if err := advise(apierrors.NewForbidden(nodes, "host-a", errors.New(reason))); !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", reason, err)
		}
	}
}
