package cluster

import (
	"fmt"
	"os/exec"
	"testing"
)

// A number that was given again is another process.
func TestKillsOnlyWhatItKnows(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	p, err := find(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := (process{pid: p.pid, start: "1"}).kill(t.Context()); err != nil || !p.runs() {
		t.Errorf("a process that started at another time: error %v, and %d runs: %t; want it to run", err, p.pid, p.runs())
	}
	if err := p.kill(t.Context()); err != nil || p.runs() {
		t.Errorf("kill: %v; it runs: %t", err, p.runs())
	}
	if err := <-ended; err == nil {
		t.Error("it ended well, want it killed")
	}
}

func TestNodesHaveAddressesInARow(t *testing.T) {
	const three = "{control [fd00:88::10 192.168.88.10]} {worker1 [fd00:88::11 192.168.88.11]} {worker2 [fd00:88::12 192.168.88.12]}"
	for _, tt := range []struct {
		workers int
		want    string
	}{
		{0, "[" + three + "]"},
		{3, "[" + three + " {worker3 [fd00:88::13 192.168.88.13]}]"},
		{10, "[]"},
	} {
		setup := Setup{Families: []string{"ipv6", "ipv4"}, Workers: tt.workers}
		families, err := setup.families()
		if err != nil {
			t.Fatal(err)
		}
		got, err := setup.nodes(families)
		if fmt.Sprint(got) != tt.want || (err != nil) != (tt.want == "[]") {
			t.Errorf("%d workers: nodes %v, error %v, want %s", tt.workers, got, err, tt.want)
		}
	}
}
