package hosts

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// vanished runs ADD and removes the pod's network namespace after a step. If the
// plugin has opened the namespace by then, it goes when the plugin ends. vanished
// returns whether ADD came to that step, and the plugin's error.
func (p *pluginHost) vanished(t *testing.T, step int, remove func(*sandbox.Netns) error) (bool, *types.Error) {
	t.Helper()
	ns, err := sandbox.CreateNetns(fmt.Sprint("vanishing-", step))
	if err != nil {
		t.Fatal(err)
	}
	cmd := p.command(t, invocation{command: "ADD", netns: ns.Path()})
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	paused, err := pauseAfter(p.host.Netns(), cmd, step, func() error { return remove(ns) })
	if !paused {
		err = errors.Join(err, ns.Delete())
	} else if err := os.Remove(ns.Path()); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if stderr.Len() > 0 {
		t.Errorf("step %d: printed on stderr: %s", step, &stderr)
	}
	if err == nil {
		return paused, nil
	}
	var reported types.Error
	if !errors.Is(err, errStatus) || json.Unmarshal(stdout.Bytes(), &reported) != nil || reported.Code == 0 {
		t.Fatalf("step %d: failed without a CNI error: %v, %s", step, err, &stdout)
	}
	return paused, &reported
}

// TestNetnsVanishesAtEveryStep ends the pod in the middle of its ADD, as a
// runtime does that lost patience, or a node that is out of memory.
func TestNetnsVanishesAtEveryStep(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string]func(*sandbox.Netns) error{
		"with its file": (*sandbox.Netns).Delete,
		"from its file": func(ns *sandbox.Netns) error {
			return errors.Join(ns.Close(), unix.Unmount(ns.Path(), unix.MNT_DETACH))
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlugin(t, "10.244.1.0/24", "fd00:244:1::/64")
			p.conf["runtimeConfig"] = everything
			p.add(t, "first") // what stays is there from the start
			p.del(t, "first")
			p.conf["runtimeConfig"] = nil
			p.add(t, "bystander")
			p.conf["runtimeConfig"] = everything
			before := p.snapshot(t)
			failed, steps := 0, 0
			for step := 1; ; step++ {
				paused, cniErr := p.vanished(t, step, remove)
				if cniErr != nil {
					failed++
					if after := p.snapshot(t); after != before {
						t.Errorf("step %d: ADD failed (%v) and left behind:\n%s\nbefore:\n%s", step, cniErr, after, before)
					}
				}
				p.nextHasItsOwn(t, step)
				p.del(t, "pod")
				if after := p.snapshot(t); after != before {
					t.Fatalf("step %d, ADD's error %v: after DEL:\n%s\nbefore:\n%s", step, cniErr, after, before)
				}
				if !paused {
					break
				}
				steps = step
			}
			if steps < 5 || failed == 0 || failed == steps {
				t.Errorf("%d of %d steps had ADD fail: expected some, before it has opened the namespace", failed, steps)
			}
			t.Logf("%d steps, ADD failed at %d", steps, failed)
		})
	}
}

// nextHasItsOwn adds and deletes a pod, which must not get another pod's
// addresses. A pod that ended keeps its addresses until its DEL.
func (p *pluginHost) nextHasItsOwn(t *testing.T, step int) {
	t.Helper()
	before := reservations(p.snapshot(t))
	p.conf["runtimeConfig"] = nil // the ports are still the other's
	defer func() { p.conf["runtimeConfig"] = everything }()
	_, out := p.add(t, "next")
	addresses := resultAddress.FindAllStringSubmatch(out, -1)
	if len(addresses) != 2 {
		t.Errorf("step %d: the result has addresses %q: %s", step, addresses, out)
	}
	for _, address := range addresses {
		if before[address[1]] {
			t.Errorf("step %d: %s was given twice", step, address[1])
		}
	}
	if n := len(reservations(p.snapshot(t))); n != len(before)+2 {
		t.Errorf("step %d: %d addresses are reserved, expected %d and the next pod's 2", step, n, len(before))
	}
	p.del(t, "next")
}

var resultAddress = regexp.MustCompile(`"address": *"([^/"]+)`)

// reservations are the addresses that are taken, of a snapshot.
func reservations(snapshot string) map[string]bool {
	taken := map[string]bool{}
	for line := range strings.Lines(snapshot) {
		if strings.Contains(line, "/addresses/") {
			taken[filepath.Base(strings.TrimSpace(line))] = true
		}
	}
	return taken
}

// TestClockJumps sets the times of pods' files far off: nothing depends on them.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	past, future := time.Unix(1, 0), time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, of := range map[string][2]time.Time{
		"both of the past":   {past, past},
		"both of the future": {future, future},
		"turned round":       {future, past},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlugin(t, "10.244.1.0/24")
			nothing := p.snapshot(t)
			for i, id := range []string{"old", "new"} {
				p.conf["runtimeConfig"] = map[string]any{"portMappings": []map[string]any{
					{"hostPort": 8080 + i, "containerPort": 80, "protocol": "tcp"},
				}}
				p.add(t, id)
			}
			p.conf["runtimeConfig"] = nil
			before := p.snapshot(t)
			p.setTimes(t, of)
			p.flushRules(t)
			p.sweep(t) // makes the host ports anew, in the order of the files' times
			if after := p.snapshot(t); after != before {
				t.Errorf("after the daemon's round:\n%s\nbefore:\n%s", after, before)
			}
			p.add(t, "next")
			p.setTimes(t, of)
			if _, cniErr := p.run(t, invocation{command: "GC", stdin: p.valid("old", "new")}); cniErr != nil {
				t.Error(cniErr)
			}
			if after := p.snapshot(t); after != before {
				t.Errorf("after ADD and GC of another pod:\n%s\nbefore:\n%s", after, before)
			}
			p.del(t, "old")
			p.del(t, "new")
			if after := p.snapshot(t); after != nothing {
				t.Errorf("left behind:\n%s", after)
			}
		})
	}
}

// TestClockJumpsWithAContestedPort has two pods with one host port, which is
// possible after a flush of the firewall. One pod gets the port, whatever the
// files' times.
func TestClockJumpsWithAContestedPort(t *testing.T) {
	t.Parallel()
	for name, old := range map[string]time.Time{"before": time.Unix(1, 0), "after": time.Unix(1<<32, 0)} {
		t.Run(name, func(t *testing.T) {
			p := newPlugin(t, "10.244.1.0/24")
			nothing := p.snapshot(t)
			p.conf["runtimeConfig"] = map[string]any{"portMappings": []map[string]any{
				{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
			}}
			p.add(t, "old")
			p.flushRules(t)
			p.add(t, "new")
			p.setTimes(t, [2]time.Time{old, time.Unix(1<<31, 0)})
			p.flushRules(t)
			p.sweep(t)
			if ports := strings.Count(p.snapshot(t), "port ports4 "); ports != 1 {
				t.Errorf("%d pods have the port:\n%s", ports, p.snapshot(t))
			}
			p.del(t, "old")
			p.sweep(t)
			if ports := strings.Count(p.snapshot(t), "port ports4 "); ports != 1 {
				t.Errorf("the pod that is left doesn't have the port:\n%s", p.snapshot(t))
			}
			p.del(t, "new")
			if after := p.snapshot(t); after != nothing {
				t.Errorf("left behind:\n%s", after)
			}
		})
	}
}

// setTimes gives files of the run directory the first of two times if they are
// of the pod "old", and the others the second.
func (p *pluginHost) setTimes(t *testing.T, of [2]time.Time) {
	t.Helper()
	err := filepath.WalkDir(p.host.RunDir(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		at := of[1]
		if strings.HasPrefix(d.Name(), "old@") {
			at = of[0]
		}
		return os.Chtimes(path, at, at)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// flushRules removes the host's whole firewall.
func (p *pluginHost) flushRules(t *testing.T) {
	t.Helper()
	if _, err := nft(p.host, "flush ruleset"); err != nil {
		t.Fatal(err)
	}
}
