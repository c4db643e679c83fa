package part

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// arena is a list with one part, on the fake clock of synctest. Whoever contests the
// part decides what the next Sync of it finds to change.
type arena struct {
	list   *List[string]
	log    bytes.Buffer
	damage func() []string
	err    error
	syncs  []time.Duration // when the part was synced
	start  time.Time
}

func newArena(resync time.Duration) *arena {
	a := &arena{damage: func() []string { return nil }, start: time.Now()}
	a.list = NewList(slog.New(slog.NewTextHandler(&a.log, nil)), resync, Part[string]{
		Name: "tunnel",
		Sync: func(string) ([]string, error) {
			a.syncs = append(a.syncs, time.Since(a.start))
			return a.damage(), a.err
		},
	}, Part[string]{Name: "other", Needs: []string{"tunnel"}, Sync: func(string) ([]string, error) { return nil, nil }})
	_, _ = a.list.Sync("x")
	return a
}

// fight has a round after each notification, one every step, and one when the list
// says that it is due.
func (a *arena) fight(d, step time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		wait := step
		if due := a.list.Due(); due > 0 {
			wait = min(wait, due)
		}
		time.Sleep(wait) //nolint:forbidigo // the clock is synctest's
		_, _ = a.list.Sync("x")
	}
}

func (a *arena) numbers() Numbers { return a.list.Numbers()[0] }

func (a *arena) lines() int { return strings.Count(a.log.String(), "\n") }

const address = "delete address 10.9.9.9/32"

func always(changes ...string) func() []string { return func() []string { return changes } }

func TestARepairThatIsUndoneSlowsDown(t *testing.T) {
	for name, tt := range map[string]struct {
		resync time.Duration
		damage func() []string
		pauses []time.Duration // seconds between the syncs from the beginning of the contest on
		what   string
	}{
		"one change": {30 * time.Second, always(address), []time.Duration{1, 2, 4, 8, 8}, address},
		"what it replaces varies": {30 * time.Second, func() []string {
			return []string{fmt.Sprintf("set route 10.244.2.0/24 via 10.244.2.0 (was %d)", time.Now().UnixNano())}
		}, []time.Duration{1, 2, 4, 8, 8}, "set route 10.244.2.0/24 via 10.244.2.0 (was "},
		"how many varies": {30 * time.Second, func() []string {
			return []string{fmt.Sprintf("set route: %d", 9+time.Now().UnixNano()%100)}
		}, []time.Duration{1, 2, 4, 8, 8}, "set route: "},
		"among others": {30 * time.Second, func() []string {
			return []string{fmt.Sprint("something else ", time.Now().UnixNano(), " of x"), address}
		}, []time.Duration{1, 2, 4, 8, 8}, address},
		"a short resync":     {2 * time.Second, always(address), []time.Duration{1, 2, 2, 2, 2}, address},
		"a very long resync": {time.Hour, always(address), []time.Duration{1, 2, 4, 8, 8}, address},
		"several":            {30 * time.Second, always("a", "b", "c", "d"), []time.Duration{1, 2, 4, 8, 8}, "a, b, c, and 1 more"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newArena(tt.resync)
				a.damage = tt.damage
				const step = 50 * time.Millisecond
				a.fight(tolerated*step, step)
				if n := a.numbers(); a.list.Contested() || n.Contest != (Contest{}) || n.Undone == 0 {
					t.Errorf("a few times are no contest: %+v", n)
				}
				begin := len(a.syncs)
				a.fight(3*time.Minute, step)
				for i, pause := range tt.pauses {
					if got := a.syncs[begin+i+1] - a.syncs[begin+i]; got != pause*time.Second {
						t.Errorf("pause %d is %s, want %ds", i+1, got, pause)
					}
				}
				n := a.numbers()
				if !a.list.Contested() || !strings.HasPrefix(n.Contest.What, tt.what) || n.Contest.Since.Sub(a.start) != step {
					t.Errorf("the contest is %+v", n.Contest)
				}
				if !strings.Contains(a.log.String(), "level=WARN msg=\"another program undoes") {
					t.Errorf("the contest is not logged:\n%s", &a.log)
				}
			})
		})
	}
}

func TestAContestIsLoggedOnceAndEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newArena(30 * time.Second)
		a.damage = always(address)
		a.fight(20*time.Second, 50*time.Millisecond)
		if a.lines() > tolerated+2 {
			t.Errorf("logged %d lines:\n%s", a.lines(), &a.log)
		}
		// So far it was made tolerated+1 times, and after 1, 3, 7 and 15 seconds.
		if c := a.numbers().Contest; c.Times != tolerated+4 || c.Pause != lastPause {
			t.Errorf("the contest is %+v", c)
		}
		a.damage = always()
		lines := a.lines()
		a.fight(2*time.Minute, time.Hour) // no notification comes any more
		if n := a.numbers(); n.Contest != (Contest{}) || n.Undone != tolerated+4 {
			t.Errorf("the contest is not over: %+v", n)
		}
		if a.lines() != lines+1 || !strings.Contains(a.log.String(), `level=INFO msg="nobody undoes the change any more" part=tunnel change="delete address 10.9.9.9/32" times=8`) {
			t.Errorf("the end is not logged once:\n%s", &a.log)
		}
		a.damage = always(address)
		synced := len(a.syncs)
		a.fight(100*time.Millisecond, 50*time.Millisecond)
		if len(a.syncs) != synced+2 || a.lines() != lines+3 {
			t.Errorf("the part is not as fast as before, or its changes are not logged:\n%s", &a.log)
		}
	})
}

// Whoever undoes something rarely meets growing pauses as well, and in between the part
// is repaired at once.
func TestASlowContest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newArena(30 * time.Second)
		a.damage = always(address)
		a.fight(10*time.Minute, 20*time.Second)
		if c := a.numbers().Contest; c.Pause != lastPause {
			t.Errorf("the contest is %+v", c)
		}
		if a.lines() > tolerated+2 {
			t.Errorf("logged %d lines:\n%s", a.lines(), &a.log)
		}
	})
}

func TestWhatIsNoContest(t *testing.T) {
	number := 0
	next := func() int { number++; return number }
	for name, tt := range map[string]struct {
		step   time.Duration
		damage func() []string
		renew  bool
	}{
		"nothing to do":                {50 * time.Millisecond, always(), false},
		"1,000 peers join in a minute": {60 * time.Millisecond, func() []string { return []string{fmt.Sprint("set route: ", next())} }, true},
		"pods come and go":             {60 * time.Millisecond, func() []string { return []string{fmt.Sprintf("set veth%d to a port of cni0", next())} }, false},
		"a change every few minutes":   {3 * time.Minute, always("jump from FORWARD to OVERLAY-CNI-FWD put at the end"), false},
		"a firewall's rules are flushed": {time.Second, func() []string {
			if next() == 5 {
				return []string{"set rule a", "set rule b"}
			}
			return nil
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newArena(30 * time.Second)
				a.damage, number = tt.damage, 0
				for range 1000 {
					time.Sleep(tt.step) //nolint:forbidigo // the clock is synctest's
					if tt.renew {
						a.list.Renew()
					}
					_, _ = a.list.Sync("x")
				}
				if n := a.numbers(); len(a.syncs) != 1001 || n.Contest != (Contest{}) || a.list.Due() != 0 {
					t.Errorf("synced %d times, %+v", len(a.syncs), n)
				}
			})
		})
	}
}

// The memory of a contest is bounded by what happens within the quiet time.
func TestRepairsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newArena(time.Second)
		number := 0
		a.damage = func() []string { number++; return []string{fmt.Sprintf("set veth%d up", number)} }
		a.fight(time.Hour, time.Second)
		if n := len(a.list.contests[0].repairs); n > 12 {
			t.Errorf("%d repairs are remembered", n)
		}
	})
}

func TestANewDesiredStateIsAppliedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newArena(30 * time.Second)
		a.damage = always(address)
		a.fight(20*time.Second, 50*time.Millisecond)
		before, contest := len(a.syncs), a.numbers().Contest
		a.list.ForceResync() // which is no new desired state
		_, _ = a.list.Sync("x")
		if len(a.syncs) != before {
			t.Error("a resync ends the pause")
		}
		a.damage = always(address, "set route 10.244.3.0/24 via 10.244.3.0")
		a.list.Renew()
		_, _ = a.list.Sync("x")
		if len(a.syncs) != before+1 || a.numbers().Contest != contest {
			t.Errorf("synced %d times more, the contest is %+v", len(a.syncs)-before, a.numbers().Contest)
		}
		if line := `msg="changed the host" part=tunnel changes="set route 10.244.3.0/24 via 10.244.3.0"`; !strings.Contains(a.log.String(), line) {
			t.Errorf("what is new is not logged:\n%s", &a.log)
		}
		_, _ = a.list.Sync("x")
		if len(a.syncs) != before+1 {
			t.Error("the pause ended")
		}
	})
}

// A part that is left alone counts as it was: its error stays, and stops those that
// need it.
func TestAPartLeftAloneCountsAsBefore(t *testing.T) {
	for name, err := range map[string]error{"in order": nil, "failed": errors.New("does not keep its settings")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newArena(30 * time.Second)
				a.damage, a.err = always(address), err
				a.fight(time.Second, 50*time.Millisecond)
				synced, run := len(a.syncs), a.list.Numbers()[1].LastRun
				time.Sleep(50 * time.Millisecond) //nolint:forbidigo // the clock is synctest's
				down, degraded := a.list.Sync("x")
				if len(a.syncs) != synced {
					t.Fatal("the part is not left alone")
				}
				if (down == nil) != (err == nil) || degraded != nil {
					t.Errorf("down: %v, degraded: %v", down, degraded)
				}
				if ran := a.list.Numbers()[1].LastRun != run; ran != (err == nil) {
					t.Errorf("the part that needs it ran: %t", ran)
				}
			})
		})
	}
}

func TestWhatAChangeIsAbout(t *testing.T) {
	for text, want := range map[string]string{
		"delete address 10.9.9.9/32":                                   "delete address 10.9.9.9/32",
		"delete address of cni0: 10.9.9.9/32":                          "delete address of cni0: 10.9.9.9/32",
		"set route fd44:0:0:2::/64 via fd44:0:0:2:: (was fe80::1)":     "set route fd44:0:0:2::/64 via fd44:0:0:2::",
		"set FDB entry 0a:00:00:00:00:01 to 192.168.77.2 (was (a), b)": "set FDB entry 0a:00:00:00:00:01 to 192.168.77.2",
		"set route: 12":          "set route",
		"set MTU of cni0: 1450":  "set MTU of cni0",
		"set veth12 up":          "set veth12 up",
		"add address fd77::1/64": "add address fd77::1/64",
	} {
		if got := about(text); got != want {
			t.Errorf("%q is about %q, want %q", text, got, want)
		}
	}
}
