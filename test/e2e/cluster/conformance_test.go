package main

import (
	"strings"
	"testing"
)

// A suite has passed only if all of its tests ran.
func TestComplete(t *testing.T) {
	for _, tt := range []struct {
		name string
		outcome
		tests int
		ok    bool
	}{
		{"all", outcome{passed: 46, failed: 1}, 47, true},
		{"none", outcome{}, 47, false},
		{"one less", outcome{passed: 46}, 47, false},
		{"one more", outcome{passed: 48}, 47, false},
		{"of one's own choice", outcome{passed: 3}, 0, true},
	} {
		if err := (suite{tests: tt.tests}).complete(tt.outcome); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// Subtests count, as they do in what gotestsum prints, and none at all is no success.
func TestOwnTestsAreCounted(t *testing.T) {
	const events = `
{"Action":"start","Package":"network"}
{"Action":"run","Test":"TestA"}
{"Action":"run","Test":"TestA/ipv4"}
{"Action":"pass","Test":"TestA/ipv4"}
{"Action":"pass","Test":"TestA"}
{"Action":"fail","Test":"TestB"}
{"Action":"pass","Package":"network"}
`
	got, err := count(strings.NewReader(events))
	if want := (outcome{passed: 2, failed: 1}); got != want || err != nil {
		t.Errorf("got %v (%v), want %v", got, err, want)
	}
	if got, err := count(strings.NewReader(`{"Action":"skip","Test":"TestC"}`)); got.failed != 1 || err == nil {
		t.Errorf("a skipped test: %v, %v", got, err)
	}
	for _, tt := range []struct {
		outcome
		ok bool
	}{{outcome{passed: 2, failed: 1}, true}, {outcome{}, false}, {outcome{passed: 2}, false}, {outcome{passed: 4}, false}} {
		if err := (own{tests: 3}).complete(tt.outcome); (err == nil) != tt.ok {
			t.Errorf("%v of 3: %v", tt.outcome, err)
		}
	}
}

// Only what CI runs is tested by default; the others by name.
func TestChosenModes(t *testing.T) {
	for _, tt := range []struct {
		names []string
		want  string
	}{{nil, "dual ipv4 ipv6"}, {[]string{"ipv6", "wide"}, "ipv6 wide"}, {[]string{"none"}, ""}} {
		all, err := chosen(tt.names)
		var got []string
		for _, m := range all {
			got = append(got, m.name)
		}
		if strings.Join(got, " ") != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%v: %v (%v), want %s", tt.names, got, err, tt.want)
		}
	}
}
