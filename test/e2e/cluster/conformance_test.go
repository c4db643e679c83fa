package main

import "testing"

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
