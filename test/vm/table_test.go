package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// A failed check makes the program fail, whatever passes later.
func TestAFailedCheckFailsTheRun(t *testing.T) {
	good := func(context.Context) (string, error) { return "so it is", nil }
	bad := func(context.Context) (string, error) { return "", errors.New("it\nis not") }
	for _, tt := range []struct {
		name   string
		checks []func(context.Context) (string, error)
		fails  bool
	}{
		{"all well", []func(context.Context) (string, error){good, good}, false},
		{"one fails", []func(context.Context) (string, error){good, bad, good}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			s := suite{ctx: t.Context(), table: newTable(&out)}
			for _, c := range tt.checks {
				s.check("name", c)
			}
			if err := s.table.end(); (err != nil) != tt.fails {
				t.Errorf("the run ends with %v", err)
			}
			if tt.fails != strings.Contains(out.String(), "FAILED") || tt.fails != strings.Contains(out.String(), "    it\n    is not\n") {
				t.Errorf("the table is\n%s", out.String())
			}
		})
	}
}

func TestMustStops(t *testing.T) {
	s := suite{ctx: t.Context(), table: newTable(&strings.Builder{})}
	err := s.must("name", func(context.Context) (string, error) { return "", errors.New("no") })
	if !errors.Is(err, errStop) {
		t.Errorf("got %v", err)
	}
}

// A run without checks proves nothing.
func TestEmptyRunFails(t *testing.T) {
	if err := newTable(&strings.Builder{}).end(); err == nil {
		t.Error("no check at all is a success")
	}
}

// What a wait ends with says what was seen last, and why it ended.
func TestEventually(t *testing.T) {
	ctx, cancel := context.WithTimeoutCause(t.Context(), 3*lookEvery, errors.New("too late"))
	defer cancel()
	never := errors.New("never")
	if err := eventually(ctx, func() error { return never }); !errors.Is(err, never) || !strings.Contains(err.Error(), "too late") {
		t.Errorf("got %v", err)
	}
	looks := 0
	err := eventually(t.Context(), func() error {
		if looks++; looks < 3 {
			return never
		}
		return nil
	})
	if err != nil || looks != 3 {
		t.Errorf("%d looks, then %v", looks, err)
	}
}

func TestNodesText(t *testing.T) {
	got := nodesText([]*node{newNode(2)}, anyFamily)
	want := `nodes:
- name: node2
  addresses: ["192.168.77.2", "fd00:77::2"]
  podSubnets: ["10.244.2.0/24", "fd00:244:2::/64"]
`
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestSeconds(t *testing.T) {
	if got := seconds(1549 * time.Millisecond); got != "1.5 s" {
		t.Errorf("got %q", got)
	}
}
