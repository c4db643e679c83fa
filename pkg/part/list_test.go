package part

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"
)

// fake is a part that says what happens to it.
type fake struct {
	name    string
	needs   []string
	changes []string
	err     error
	minor   bool
	calls   *[]string
}

func (f *fake) part() Part[string] {
	return Part[string]{
		Name: f.name, Needs: f.needs, Round: "round",
		Minor: func(error) bool { return f.minor },
		Sync: func(want string) ([]string, error) {
			*f.calls = append(*f.calls, "sync "+f.name+" "+want)
			return f.changes, f.err
		},
		Remove: func(was string) ([]string, error) {
			*f.calls = append(*f.calls, "remove "+f.name+" "+was)
			return []string{f.name + " of " + was}, f.err
		},
		ForceResync: func() { *f.calls = append(*f.calls, "resync "+f.name) },
	}
}

// listOf has the parts a to d: b needs a, d needs b.
func listOf(change func(a, b, c *fake)) (list *List[string], calls *[]string, log *bytes.Buffer) {
	calls, log = new([]string), new(bytes.Buffer)
	a, b := &fake{name: "a", calls: calls}, &fake{name: "b", needs: []string{"a"}, calls: calls}
	c, d := &fake{name: "c", calls: calls}, &fake{name: "d", needs: []string{"b"}, calls: calls}
	change(a, b, c)
	return NewList(slog.New(slog.NewTextHandler(log, nil)), time.Minute, a.part(), b.part(), c.part(), d.part()), calls, log
}

func TestAPartThatFailsStopsThoseThatNeedIt(t *testing.T) {
	broken := errors.New("broken")
	for name, tt := range map[string]struct {
		change         func(a, b, c *fake)
		synced         string
		down, degraded string
	}{
		"none": {func(_, _, _ *fake) {}, "a b c d", "<nil>", "<nil>"},
		"the first, which others need, and theirs": {func(a, _, _ *fake) { a.err = broken }, "a c", "a: broken", "<nil>"},
		"one that nobody needs":                    {func(_, _, c *fake) { c.err = broken }, "a b c d", "c: broken", "<nil>"},
		"two":                                      {func(_, b, c *fake) { b.err, c.err = broken, broken }, "a b c", "b: broken\nc: broken", "<nil>"},
		"one with a minor error":                   {func(a, _, _ *fake) { a.err, a.minor = broken, true }, "a b c d", "<nil>", "a: broken"},
		"one with each kind": {func(a, _, c *fake) { a.err, a.minor, c.err = broken, true, broken },
			"a b c d", "c: broken", "a: broken"},
	} {
		t.Run(name, func(t *testing.T) {
			list, calls, _ := listOf(tt.change)
			down, degraded := list.Sync("x")
			if fmt.Sprint(down) != tt.down || fmt.Sprint(degraded) != tt.degraded {
				t.Errorf("down: %v, degraded: %v", down, degraded)
			}
			want := strings.Fields(tt.synced)
			for i := range want {
				want[i] = "sync " + want[i] + " x"
			}
			if !slices.Equal(*calls, want) {
				t.Errorf("called %q, want %q", *calls, want)
			}
		})
	}
}

func TestChangesAreLoggedOnce(t *testing.T) {
	list, _, log := listOf(func(a, b, _ *fake) {
		a.changes, a.err = []string{"set x", "set y"}, errors.New("broken")
		for i := range 12 {
			b.changes = append(b.changes, fmt.Sprint("set ", i))
		}
		b.needs = nil
	})
	_, _ = list.Sync("x")
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 2 || !strings.HasSuffix(lines[0], `level=INFO msg="changed the host" part=a changes="set x, set y"`) ||
		!strings.HasSuffix(lines[1], `part=b changes="set 0, set 1, set 2, set 3, set 4, set 5, set 6, set 7, set 8, set 9 and 2 more"`) {
		t.Errorf("logged:\n%s", log)
	}
}

func TestNumbers(t *testing.T) {
	broken := errors.New("broken")
	list, _, _ := listOf(func(a, _, c *fake) {
		a.err, a.minor = broken, true
		c.changes = []string{"set x", "set y"}
	})
	for _, n := range list.Numbers() {
		if !n.LastRun.IsZero() || n.Changes+n.Failures != 0 {
			t.Errorf("before the first round: %+v", n)
		}
	}
	for range 3 {
		_, _ = list.Sync("x")
	}
	want := []Numbers{{Part: "a", Failures: 3, Err: broken}, {Part: "b"}, {Part: "c", Changes: 6, Undone: 2}, {Part: "d"}}
	got := list.Numbers()
	for i := range got {
		if got[i].LastRun.IsZero() || got[i].Took < 0 {
			t.Errorf("%+v has not run", got[i])
		}
		got[i].LastRun, got[i].Took = want[i].LastRun, want[i].Took
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestRemoveGoesBackwards(t *testing.T) {
	list, calls, _ := listOf(func(_, b, _ *fake) { b.err = errors.New("broken") })
	var removed []string
	err := list.Remove("x", func(name string) { removed = append(removed, name) })
	if want := []string{"remove d x", "remove c x", "remove b x", "remove a x"}; !slices.Equal(*calls, want) {
		t.Errorf("called %q, want %q", *calls, want)
	}
	if want := []string{"d of x", "c of x", "b of x", "a of x"}; !slices.Equal(removed, want) {
		t.Errorf("removed %q, want %q", removed, want)
	}
	if fmt.Sprint(err) != "remove b: broken" {
		t.Error(err)
	}
}

func TestForceResync(t *testing.T) {
	list, calls, _ := listOf(func(_, _, _ *fake) {})
	list.ForceResync()
	if want := []string{"resync a", "resync b", "resync c", "resync d"}; !slices.Equal(*calls, want) {
		t.Errorf("called %q, want %q", *calls, want)
	}
}

// What a part leaves alone is among its numbers, and logged when it changes.
func TestNotes(t *testing.T) {
	var log bytes.Buffer
	var notes []string
	list := NewList(slog.New(slog.NewTextHandler(&log, nil)), time.Minute, Part[string]{
		Name: "a", Sync: func(string) ([]string, error) { return nil, nil }, Notes: func() []string { return notes },
	})
	for _, tt := range []struct {
		notes  []string
		want   string
		logged int
	}{{nil, "", 0}, {[]string{"x", "y"}, "x; y", 1}, {[]string{"x", "y"}, "x; y", 1}, {nil, "", 2}} {
		notes = tt.notes
		_, _ = list.Sync("x")
		if n := list.Numbers()[0].Note; n != tt.want || strings.Count(log.String(), "\n") != tt.logged {
			t.Errorf("%q gives %q, logged:\n%s", tt.notes, n, &log)
		}
	}
}

// A part may have nothing to keep, to remove or to read again.
func TestAPartWithNothingButAName(t *testing.T) {
	list := NewList(slog.New(slog.DiscardHandler), time.Minute, Part[string]{Name: "a"})
	list.ForceResync()
	down, degraded := list.Sync("x")
	if err := errors.Join(down, degraded, list.Remove("x", func(string) { t.Error("removed something") })); err != nil {
		t.Error(err)
	}
}

func TestInRound(t *testing.T) {
	parts := []Part[string]{{Name: "a", Round: "x"}, {Name: "b", Round: "y"}, {Name: "c", Round: "x"}}
	if got := InRound("x", parts); len(got) != 2 || got[0].Name != "a" || got[1].Name != "c" {
		t.Errorf("got %v", got)
	}
}
