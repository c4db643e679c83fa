package reconcile

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const (
	resync = 30 * time.Second
	gap    = 50 * time.Millisecond
)

// bench is a loop on a fake clock. Nothing in it waits for real.
type bench struct {
	t     *testing.T
	loop  *Loop
	start time.Time
	busy  atomic.Int32

	mu   sync.Mutex
	runs []time.Duration // when each began, since the loop did
	log  bytes.Buffer
	will behaviour
}

// behaviour is what runs do.
type behaviour struct {
	fails string // the text of the error that a run ends with; empty: none
	takes time.Duration
}

// on runs a test with a loop that has done its first run, and ends the loop,
// which must not take any time.
func on(t *testing.T, test func(b *bench), with ...func(*Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, start: time.Now()}
		c := Config{Name: "all", Sync: b.sync, Resync: resync, Pause: gap, Log: slog.New(slog.NewTextHandler(b, nil))}
		for _, set := range with {
			set(&c)
		}
		b.loop = New(c)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			b.loop.Run(ctx)
		}()
		synctest.Wait()
		test(b)
		b.logged()
		end := time.Now()
		cancel()
		<-ended
		if took := time.Since(end); took > 0 {
			t.Errorf("it took %s to end", took)
		}
		if log := b.logged(); log != "" {
			t.Errorf("the end is logged: %s", log)
		}
	})
}

func (b *bench) sync(ctx context.Context) error {
	if b.busy.Add(1) > 1 {
		b.t.Error("it runs twice at once")
	}
	defer b.busy.Add(-1)
	from, will := time.Since(b.start), b.behaviour()
	if will.takes > 0 {
		select {
		case <-time.After(will.takes):
		case <-ctx.Done():
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.runs = append(b.runs, from)
	if will.fails != "" {
		return errors.New(will.fails)
	}
	return nil
}

func (b *bench) behaviour() behaviour {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.will
}

func (b *bench) from(now behaviour) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.will = now
}

// Write takes the log.
func (b *bench) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.Write(p)
}

// logged is the log since the last call.
func (b *bench) logged() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	text := b.log.String()
	b.log.Reset()
	return text
}

// pass lets time go by. Runs that are due at the end of it have happened.
func (b *bench) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// began are the moments at which runs began since the last call.
func (b *bench) began() []time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	at := b.runs
	b.runs = nil
	return at
}

func (b *bench) wantRuns(want ...time.Duration) {
	b.t.Helper()
	if got := b.began(); !slices.Equal(got, want) {
		b.t.Errorf("ran at %v, want %v", got, want)
	}
}

func (b *bench) trigger(times int) {
	for range times {
		b.loop.Trigger()
	}
	synctest.Wait()
}

func TestRunsAtOnceAndEveryResync(t *testing.T) {
	on(t, func(b *bench) {
		b.wantRuns(0)
		b.pass(2*resync + time.Second)
		b.wantRuns(resync, 2*resync)
	})
}

// A run that is due comes by itself, after a success and after a failure. Due counts
// from the end of a run; 0 leaves it to the resync.
func TestRunsWhenDue(t *testing.T) {
	for name, tt := range map[string]struct {
		due   time.Duration
		fails string
		want  []time.Duration
	}{
		"never":               {0, "", []time.Duration{resync}},
		"before the resync":   {20 * time.Second, "", []time.Duration{20 * time.Second, 40 * time.Second}},
		"after the resync":    {time.Hour, "", []time.Duration{resync}},
		"before the retry":    {firstRetry / 2, "no such luck", []time.Duration{firstRetry}}, // a failure's pause holds
		"later than a retry":  {time.Hour, "no such luck", []time.Duration{firstRetry}},
		"soon after a pause":  {gap / 2, "", []time.Duration{gap}},
		"overdue: not at all": {-time.Second, "", []time.Duration{resync}},
	} {
		t.Run(name, func(t *testing.T) {
			on(t, func(b *bench) {
				if tt.fails != "" {
					b.from(behaviour{fails: tt.fails})
					b.trigger(1)
					b.pass(gap)
				}
				first := b.began()
				from := first[len(first)-1]
				b.pass(45*time.Second - from)
				got := b.began()
				for i, want := range tt.want {
					if i >= len(got) || got[i]-from != want {
						t.Errorf("runs after %v, want %v", got, tt.want)
						break
					}
				}
			}, func(c *Config) { c.Due = func() time.Duration { return tt.due } })
		})
	}
}

func TestTriggerRunsSoon(t *testing.T) {
	on(t, func(b *bench) {
		b.pass(time.Second)
		b.began()
		b.trigger(1)
		b.wantRuns(time.Second)
		b.pass(resync + time.Second)
		b.wantRuns(time.Second + resync) // the resync counts from the last run
	})
}

func TestTriggersThatMayComeLaterAreOneRun(t *testing.T) {
	on(t, func(b *bench) {
		b.pass(time.Second)
		b.began()
		for range 9 {
			b.loop.TriggerLater(time.Second)
			b.pass(100 * time.Millisecond)
		}
		b.wantRuns()
		b.pass(time.Second)
		b.wantRuns(2 * time.Second)
		b.loop.TriggerLater(time.Second)
		b.trigger(1) // which does not wait for the other
		b.pass(2 * time.Second)
		b.wantRuns(2900*time.Millisecond, 3900*time.Millisecond)
	})
}

func TestBurstOfTriggersIsFewRuns(t *testing.T) {
	on(t, func(b *bench) {
		b.pass(time.Second)
		b.began()
		for range 100 {
			b.trigger(50)
			b.pass(time.Millisecond)
		}
		b.pass(time.Second)
		// 100 ms of triggers, a run at once and then one each gap.
		b.wantRuns(time.Second, time.Second+gap, time.Second+2*gap)
	})
}

func TestRunSettlesAfterItsTrigger(t *testing.T) {
	const settle, pause = 300 * time.Millisecond, 700 * time.Millisecond
	on(t, func(b *bench) {
		b.wantRuns(0)
		b.pass(2 * time.Second)
		for range 20 { // one every 50 ms, for a second
			b.trigger(1)
			b.pass(50 * time.Millisecond)
		}
		b.pass(5 * time.Second)
		first := 2*time.Second + settle
		b.wantRuns(first, first+pause+settle)
		b.pass(resync)
		b.wantRuns(first + pause + settle + resync) // which no trigger asked for
		b.pass(time.Second)
		b.trigger(1)
		b.pass(settle / 2)
		b.trigger(1)
		b.pass(5 * time.Second)
		if n := len(b.began()); n != 1 {
			b.t.Errorf("%d runs for what came within the time of settling", n)
		}
	}, func(c *Config) { c.Settle, c.Pause = settle, pause })
}

func TestTriggerDuringARunIsNotLost(t *testing.T) {
	on(t, func(b *bench) {
		b.from(behaviour{takes: 3 * time.Second})
		b.pass(time.Second)
		b.began()
		b.trigger(1) // begins at 1 s
		b.pass(time.Second)
		b.trigger(5) // while it runs
		b.pass(10 * time.Second)
		b.wantRuns(time.Second, 4*time.Second+gap)
	})
}

func TestTriggerNeverBlocks(t *testing.T) {
	loop := New(Config{})
	for range 1000 {
		loop.Trigger() // nobody reads
	}
}

func TestFailureIsTriedAgainEverSlower(t *testing.T) {
	on(t, func(b *bench) {
		b.pass(time.Second)
		b.began()
		b.from(behaviour{fails: "no such luck"})
		b.trigger(1)
		b.pass(2 * time.Minute)
		want, at := []time.Duration{time.Second}, time.Second
		for delay := firstRetry; at+delay <= time.Second+2*time.Minute; delay = min(2*delay, lastRetry) {
			at += delay
			want = append(want, at)
		}
		b.wantRuns(want...)
		b.from(behaviour{})
		b.pass(lastRetry)
		if n := len(b.began()); n != 1 {
			b.t.Errorf("%d runs after it was mended", n)
		}
		b.from(behaviour{fails: "again"})
		b.trigger(1)
		b.began()
		b.pass(firstRetry)
		if n := len(b.began()); n != 1 {
			b.t.Errorf("after a success the delay does not begin anew: %d runs", n)
		}
	})
}

// What was missing may just have come: a change is looked at soon, however
// long it has failed, but a storm of changes does not become a storm of runs.
func TestChangeDuringAFailure(t *testing.T) {
	on(t, func(b *bench) {
		b.from(behaviour{fails: "no underlay"})
		b.trigger(1)
		b.pass(time.Minute) // the delay is lastRetry by now
		last := b.began()
		b.pass(eagerRetry)
		b.trigger(1)
		b.pass(0)
		if got := b.began(); len(got) != 1 {
			b.t.Fatalf("a change had runs at %v, the last before at %v", got, last[len(last)-1])
		}
		for range 100 {
			b.trigger(1)
			b.pass(50 * time.Millisecond)
		}
		if n := len(b.began()); n > 5 {
			b.t.Errorf("%d runs in 5 s", n)
		}
	})
}

func TestErrorIsLoggedOnceAMinute(t *testing.T) {
	on(t, func(b *bench) {
		b.pass(time.Second)
		b.from(behaviour{fails: "no such luck"})
		b.trigger(1)
		count := func(after time.Duration, text string) int {
			b.pass(after)
			return strings.Count(b.logged(), text)
		}
		if n := count(50*time.Second, "no such luck"); n != 1 {
			b.t.Errorf("logged %d times in 50 s", n)
		}
		if n := count(time.Minute, "no such luck"); n != 1 {
			b.t.Errorf("logged %d times in the next minute", n)
		}
		b.from(behaviour{fails: "another reason"})
		if n := count(lastRetry, "another reason"); n != 1 {
			b.t.Errorf("another error was logged %d times", n)
		}
		b.from(behaviour{})
		if n := count(10*lastRetry, "all is well again"); n != 1 {
			b.t.Errorf("the end of it was logged %d times", n)
		}
	})
}

func TestEndsAtOnce(t *testing.T) {
	for name, prepare := range map[string]func(*bench){
		"waiting for the resync": func(*bench) {},
		"waiting after a failure": func(b *bench) {
			b.from(behaviour{fails: "no such luck"})
			b.trigger(1)
			b.pass(time.Minute)
		},
		"in the gap": func(b *bench) { b.pass(time.Second); b.trigger(2) },
		"in a run": func(b *bench) {
			b.from(behaviour{takes: time.Hour, fails: "interrupted"}) // the run gets the context
			b.pass(time.Second)
			b.trigger(1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			on(t, prepare) // which looks at the end
		})
	}
}
