package cluster

import (
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
	all := nodes(2)
	if len(all) != 3 || all[0].Name != Control || all[2].Name != "worker2" || all[2].Address.String() != "192.168.88.12" {
		t.Errorf("nodes: %v", all)
	}
}
