package demo

import (
	"bytes"
	"errors"
	"slices"
	"testing"
)

func TestTable(t *testing.T) {
	var out bytes.Buffer
	table := table{out: &out}
	table.header()
	table.row("pod to pod, same host: a1 > a2", "RTT 0.05 ms IPv4", nil)
	table.row("pod to pod, across hosts: a1 > b1", "", errors.New("ping from host-a-a1 to 10.244.2.2: "+
		"still failing: context deadline exceeded\nping from host-a-a1 to 10.244.2.2: no answer from 10.244.2.2"))
	want := `CHECK                                    RESULT  DETAIL
pod to pod, same host: a1 > a2           ok      RTT 0.05 ms IPv4
pod to pod, across hosts: a1 > b1        FAILED
    ping from host-a-a1 to 10.244.2.2: still failing: context deadline exceeded
    ping from host-a-a1 to 10.244.2.2: no answer from 10.244.2.2
`
	if got := out.String(); got != want {
		t.Errorf("got\n%s", got)
	}
	if table.checks != 2 || table.failed != 1 {
		t.Errorf("%d of %d failed", table.failed, table.checks)
	}
}

func TestFill(t *testing.T) {
	tests := map[string]struct {
		text string
		want []string
	}{
		"short":        {"one two", []string{"one two"}},
		"breaks":       {"one two three", []string{"one two", "three"}},
		"exact":        {"12345 7890", []string{"12345 7890"}},
		"long word":    {"a 12345678901234 b", []string{"a", "12345678901234", "b"}},
		"lines stay":   {"one\ntwo", []string{"one", "two"}},
		"spaces don't": {"  one   two ", []string{"one two"}},
		"empty":        {"", []string{""}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := fill(tt.text, 10); !slices.Equal(got, tt.want) {
				t.Errorf("got %q", got)
			}
		})
	}
}

// The names that the demo uses fit their column.
func TestNamesFit(t *testing.T) {
	for _, name := range []string{
		"pod to pod, across hosts: a1 > b1",
		"host-c leaves: the others' routes to it",
		"  meanwhile: 3 streams of the others",
	} {
		if len(name) > nameWidth {
			t.Errorf("%q has %d characters, more than %d", name, len(name), nameWidth)
		}
	}
	for _, detail := range []string{"203.0.113.1 sees 192.168.77.1", "RTT 0.06 ms IPv4, 0.07 ms IPv6"} {
		if width := nameWidth + len(" FAILED  ") + len(detail); width > columns {
			t.Errorf("%q makes a line of %d characters", detail, width)
		}
	}
}
