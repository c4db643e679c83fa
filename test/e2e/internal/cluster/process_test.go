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
	families, err := Setup{Families: []string{"ipv6", "ipv4"}}.families()
	if err != nil {
		t.Fatal(err)
	}
	const want = "[{control [fd00:88::10 192.168.88.10]} {worker1 [fd00:88::11 192.168.88.11]} {worker2 [fd00:88::12 192.168.88.12]}]"
	if got := fmt.Sprint(nodes(families)); got != want {
		t.Errorf("nodes: %s, want %s", got, want)
	}
}
