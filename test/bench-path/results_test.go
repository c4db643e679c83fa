package main

import (
	"strings"
	"testing"
)

func TestTables(t *testing.T) {
	r := &results{
		Columns: []column{{"1 stream", "Gbit/s", 1}, {"UDP packets", "1000/s", 0}},
		Rows: []*row{
			{Place: twoHosts, Set: yardstick, Values: map[string][]float64{"1 stream": {12, 10, 11}, "UDP packets": {100}}},
			{Place: twoHosts, Set: "one", Values: map[string][]float64{"1 stream": {5, 5.5, 6}}, Failed: 1, Error: "UDP packets: none"},
			{Place: twoHosts, Set: "two", Note: "not installed"},
			{Place: oneHost, Set: yardstick},
		},
	}
	var out strings.Builder
	r.print(&out)
	for _, want := range []string{
		"| host to host | 11.0 (1.00 ×)    | 100 (1.00 ×)        |",
		"| one          | 5.5 (0.50 ×)     | -                   |",
		"| two          | -                | -                   |",
		"| one          | 5.0 to 6.0       | -                   |",
		"two: not installed\n",
		"one, two hosts: 1 turns failed, the first one: UDP packets: none\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, &out)
		}
	}
}

func TestBusy(t *testing.T) {
	for line, want := range map[string]float64{
		"cpu  100 10 200 9999 9999 30 60 5 7 7": 4, // guests are in user already; steal is another machine's
		"":                                      0,
	} {
		if got := busyIn(line); got != want {
			t.Errorf("%q: %v s, not %v", line, got, want)
		}
	}
}
