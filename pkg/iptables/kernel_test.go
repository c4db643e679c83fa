package iptables

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overlay-cni/overlay-cni/internal/family"
)

// docker is what dockerd 20.10 sets in table filter, for either family.
func docker() []string {
	return []string{
		":FORWARD DROP [0:0]",
		":DOCKER - [0:0]", ":DOCKER-ISOLATION-STAGE-1 - [0:0]", ":DOCKER-ISOLATION-STAGE-2 - [0:0]", ":DOCKER-USER - [0:0]",
		"-A FORWARD -j DOCKER-USER",
		"-A FORWARD -j DOCKER-ISOLATION-STAGE-1",
		"-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
		"-A FORWARD -o docker0 -j DOCKER",
		"-A FORWARD -i docker0 ! -o docker0 -j ACCEPT",
		"-A FORWARD -i docker0 -o docker0 -j ACCEPT",
		"-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2",
		"-A DOCKER-ISOLATION-STAGE-1 -j RETURN",
		"-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP",
		"-A DOCKER-ISOLATION-STAGE-2 -j RETURN",
		"-A DOCKER-USER -j RETURN",
	}
}

func forwarding(t testing.TB) State {
	t.Helper()
	s, err := Desired(Config{Own: prefixes("10.244.1.0/24", "fd00:1::/64"), Bridge: "cni0", Tunnel: "overlay0"})
	must(t, err)
	return s
}

// Our part of table filter, as iptables -S lists it.
var (
	ourRules = []string{
		"-A OVERLAY-CNI-FWD -i cni0 -j ACCEPT",
		"-A OVERLAY-CNI-FWD -o cni0 -j ACCEPT",
		"-A OVERLAY-CNI-FWD -o overlay0 -j ACCEPT",
		"-A OVERLAY-CNI-FWD -i overlay0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
	}
	ourJump = "-A FORWARD -j OVERLAY-CNI-FWD"
)

// parts splits a listing into our rules, the rules of FORWARD and the rest.
func parts(lines []string) (ours, forward, rest []string) {
	for _, l := range lines {
		switch {
		case strings.HasPrefix(l, "-A OVERLAY-CNI-FWD "):
			ours = append(ours, l)
		case strings.HasPrefix(l, "-A FORWARD "):
			forward = append(forward, l)
		case l != "-N OVERLAY-CNI-FWD":
			rest = append(rest, l)
		}
	}
	return ours, forward, rest
}

// checkOurs compares table filter with what it was before, and ours with what
// it should be: the jump before the rule with the given index, or at the end.
func checkOurs(t *testing.T, before, after []string, jumpAt int) {
	t.Helper()
	_, forwardBefore, restBefore := parts(before)
	forwardBefore = slices.DeleteFunc(forwardBefore, func(l string) bool { return strings.HasSuffix(l, " OVERLAY-CNI-FWD") })
	if jumpAt < 0 {
		jumpAt = len(forwardBefore)
	}
	ours, forward, rest := parts(after)
	if diff := cmp.Diff(ourRules, ours); diff != "" {
		t.Errorf("our chain: %s", diff)
	}
	if jumpAt > len(forwardBefore) {
		t.Fatalf("FORWARD has lost rules: %q", forwardBefore)
	}
	if diff := cmp.Diff(slices.Insert(forwardBefore, jumpAt, ourJump), forward); diff != "" {
		t.Errorf("FORWARD: %s", diff)
	}
	if diff := cmp.Diff(restBefore, rest); diff != "" {
		t.Errorf("others' rules: %s", diff)
	}
}

// Each case is done by hand, after Docker's rules and ours are there.
func TestMending(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		by     []string // for iptables-restore
		jumpAt int      // -1: at the end
	}{
		{"nothing", nil, -1},
		{"chains flushed", []string{"-F"}, -1},
		{"everything flushed and removed", []string{"-F", "-X"}, -1},
		{"our chain flushed", []string{"-F OVERLAY-CNI-FWD"}, -1},
		{"one rule of ours deleted", []string{"-D OVERLAY-CNI-FWD 2"}, -1},
		{"a rule added to our chain", []string{"-I OVERLAY-CNI-FWD -s 192.0.2.1 -m tcp -p tcp --dport 80 -j DROP"}, -1},
		{"one of ours altered", []string{"-R OVERLAY-CNI-FWD 1 -i cni1 -j ACCEPT"}, -1},
		{"a name's beginning", []string{"-R OVERLAY-CNI-FWD 1 -i cni0+ -j ACCEPT"}, -1},
		{"FORWARD flushed", []string{"-F FORWARD"}, -1},
		{"policy ACCEPT", []string{"-P FORWARD ACCEPT"}, -1},
		{"jump deleted", []string{"-D FORWARD -j OVERLAY-CNI-FWD"}, -1},
		{"jump there twice", []string{"-I FORWARD -j OVERLAY-CNI-FWD"}, -1},
		{"jump with a condition", []string{"-I FORWARD -i eth0 -j OVERLAY-CNI-FWD"}, -1},
		{"goto instead of the jump", []string{"-D FORWARD -j OVERLAY-CNI-FWD", "-A FORWARD -g OVERLAY-CNI-FWD"}, -1},
		{"rule appended", []string{"-A FORWARD -i eth0 -j DOCKER-USER"}, -1},
		{"rule inserted", []string{"-I FORWARD -i eth0 -j DOCKER-USER"}, -1},
		{"a REJECT appended", []string{"-A FORWARD -j REJECT"}, 6},
		{"a DROP in front of ours", []string{"-I FORWARD 7 -j DROP"}, 6},
		{"a DROP with a comment", []string{`-I FORWARD 2 -m comment --comment "it's \"the\" -j end" -j DROP`}, 1},
		{"a DROP with a condition", []string{"-I FORWARD 7 -i eth0 -j DROP"}, -1},
		{"a comment that looks like our jump", []string{`-A FORWARD -m comment --comment " -j OVERLAY-CNI-FWD" -j DOCKER-USER`}, -1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			eachVariant(t, func(t *testing.T, v variant, s space) {
				k, want := New(), forwarding(t)
				s.restore(v, "filter", docker()...)
				s.mustSync(k, want)
				by := slices.Clone(tc.by)
				if v.family == family.IPv6 {
					for i := range by {
						by[i] = strings.ReplaceAll(by[i], "192.0.2.1", "2001:db8::1")
					}
				}
				s.restore(v, "filter", by...)
				broken := s.list(v)
				s.mustSync(k, want)
				checkOurs(t, broken, s.list(v), tc.jumpAt)
			})
		})
	}
}

// This package makes the same rules as iptables, so iptables lists them, and Sync
// changes nothing after iptables-save and iptables-restore.
func TestIptablesMakesTheSame(t *testing.T) {
	t.Parallel()
	eachVariant(t, func(t *testing.T, v variant, s space) {
		s.restore(v, "filter", append([]string{":FORWARD DROP [0:0]", ":OVERLAY-CNI-FWD - [0:0]", ourJump}, ourRules...)...)
		if changes := s.mustSync(New(), forwarding(t)); len(changes) > 0 {
			t.Errorf("changed %q", changes)
		}
	})
}

func TestRemoval(t *testing.T) {
	t.Parallel()
	eachVariant(t, func(t *testing.T, v variant, s space) {
		k := New()
		s.restore(v, "filter", docker()...)
		before := s.list(v)
		s.mustSync(k, forwarding(t))
		s.restore(v, "filter", "-I FORWARD -j OVERLAY-CNI-FWD", "-A FORWARD -i eth9 -j OVERLAY-CNI-FWD")
		s.mustSync(k, State{})
		if diff := cmp.Diff(before, s.list(v)); diff != "" {
			t.Error(diff)
		}
	})
}

// Sync makes no table on a host without iptables.
func TestNothingIsMadeWhereThereIsNothing(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	for _, want := range []State{forwarding(t), {}} {
		if changes := s.mustSync(New(), want); len(changes) > 0 {
			t.Errorf("changed %q", changes)
		}
		s.In(func() error { poll(map[family.Family]any{}); return nil })
	}
	if got := s.run("nft", "list", "ruleset"); got != "" {
		t.Errorf("nf_tables has %q", got)
	}
	for _, names := range []string{"ip_tables_names", "ip6_tables_names"} {
		if got := s.run("cat", "/proc/net/"+names); got != "" {
			t.Errorf("%s has %q", names, got)
		}
	}
}

// A table of that name that somebody made with nft, for another purpose.
func TestUnmanagedTablesAreLeftAlone(t *testing.T) {
	t.Parallel()
	for name, ruleset := range map[string]string{
		"FORWARD is an ordinary chain": "table ip filter { chain FORWARD { drop; }; }",
		"forward in lower case":        "table ip filter { chain forward { type filter hook forward priority 0; policy drop; }; }",
		"another family":               "table inet filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSpace(t)
			s.runWith(ruleset, "nft", "-f", "-")
			before := s.run("nft", "list", "ruleset")
			s.mustSync(New(), forwarding(t))
			if diff := cmp.Diff(before, s.run("nft", "list", "ruleset")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Where both kinds of iptables are in use, a packet meets both.
func TestBothKindsAtOnce(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	for _, v := range variants() {
		s.restore(v, "filter", docker()...)
	}
	before := s.list(variants()[0])
	if changes := s.mustSync(New(), forwarding(t)); len(changes) != 8 {
		t.Errorf("changed %q", changes)
	}
	for _, v := range variants() {
		checkOurs(t, before, s.list(v), -1)
	}
}

// withoutPrograms empties PATH, as in our container image. PATH is the whole
// process's, so tests that set it don't run in parallel.
func withoutPrograms(t *testing.T) { t.Setenv("PATH", t.TempDir()) }

func TestNftTablesNeedNoProgram(t *testing.T) {
	s, v := newSpace(t), variants()[0]
	s.restore(v, "filter", docker()...)
	before := s.list(v)
	path := os.Getenv("PATH")
	withoutPrograms(t)
	s.mustSync(New(), forwarding(t))
	t.Setenv("PATH", path)
	checkOurs(t, before, s.list(v), -1)
}

func TestLegacyTablesWithoutProgram(t *testing.T) {
	for _, tc := range []struct {
		name   string
		rules  []string
		fails  bool
		remove bool
	}{
		{"policy DROP", []string{":FORWARD DROP [0:0]"}, true, false},
		{"DROP at the end", []string{"-A FORWARD -i eth0 -j ACCEPT", "-A FORWARD -j DROP"}, true, false},
		{"REJECT at the end", []string{"-A FORWARD -j REJECT"}, true, false},
		{"policy ACCEPT", []string{"-A FORWARD -i eth0 -j DROP"}, false, false},
		{"ACCEPT before DROP", []string{":FORWARD DROP [0:0]", "-A FORWARD -j ACCEPT"}, false, false},
		{"DROP in another chain", []string{":INPUT DROP [0:0]", "-A OUTPUT -j DROP"}, false, false},
		{"nothing of ours to remove", []string{":FORWARD DROP [0:0]"}, false, true},
		{"ours to remove", []string{":OVERLAY-CNI-FWD - [0:0]"}, true, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, v := range variants()[2:] {
				t.Run(v.String(), func(t *testing.T) {
					s := newSpace(t)
					s.restore(v, "filter", tc.rules...)
					want := forwarding(t)
					if tc.remove {
						want = State{}
					}
					withoutPrograms(t)
					_, err := s.sync(New(), want)
					if (err != nil) != tc.fails {
						t.Fatalf("got error %v", err)
					}
					if tc.fails && (!strings.Contains(err.Error(), ErrNoProgram.Error()) || !strings.Contains(err.Error(), v.family.String())) {
						t.Errorf("the error does not say what is missing: %v", err)
					}
				})
			}
		})
	}
}

// instrumented puts a wrapper in front of the real program that records each run.
func instrumented(t *testing.T) (runs func() []string) {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	for _, v := range variants() {
		for _, name := range []string{v.program, v.program + "-restore"} {
			path, err := exec.LookPath(name)
			must(t, err)
			script := fmt.Sprintf("#!/bin/sh\necho %s >> %s\nexec %s \"$@\"\n", name, log, path)
			must(t, os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755))
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() []string {
		text, err := os.ReadFile(log)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		must(t, os.RemoveAll(log))
		return strings.Fields(string(text))
	}
}

// A program costs milliseconds and takes a lock, so none is run for nothing.
func TestNoProgramIsRunWhileNothingChanges(t *testing.T) {
	s, v := newSpace(t), variants()[2]
	s.restore(v, "filter", docker()...)
	runs, k, want := instrumented(t), New(), forwarding(t)
	sync := func() int {
		_, err := s.sync(k, want)
		must(t, err)
		return len(runs())
	}
	const version = 2 // runs, to ask for it
	for i, tc := range []struct {
		what string
		do   func()
		want int
	}{
		{"two chains are listed, then one change is made", nil, 2 + version + 1 + version},
		{"what was made is read once", nil, 2 + version},
		{"nothing changed", nil, 0},
		{"another table changed", func() { s.restore(v, "nat", "-A POSTROUTING -j RETURN") }, 0},
		{"a rule was added", func() { s.restore(v, "filter", "-I FORWARD -j DOCKER-USER") }, 2 + version},
		{"nothing changed", nil, 0},
		{"another state is wanted", func() { want = State{} }, 2 + version + 1 + version},
		{"what was removed is looked for once", nil, 2 + version},
		{"nothing changed, none of ours is there", nil, 0},
	} {
		if tc.do != nil {
			tc.do()
		}
		runs()
		if got := sync(); got != tc.want {
			t.Errorf("%d, %s: %d programs were run, want %d", i, tc.what, got, tc.want)
		}
	}
}

// Sync notices all changes of iptables-legacy's table filter, except those that leave
// all sizes and the policy of FORWARD unchanged. Packet counters are no change.
func TestPollNoticesChanges(t *testing.T) {
	t.Parallel()
	for _, v := range variants()[2:] {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			s, seen := newSpace(t), map[family.Family]any{}
			polled := func() (changed bool) {
				s.In(func() error { changed = poll(seen); return nil })
				return changed
			}
			restore := func(commands ...string) func() { return func() { s.restore(v, "filter", commands...) } }
			for _, tc := range []struct {
				name    string
				do      func()
				changes bool
			}{
				{"no table", func() {}, false},
				{"rules of another program", restore(append(docker(), "-A OUTPUT -o lo -j ACCEPT")...), true},
				{"nothing", func() {}, false},
				{"ours", func() { s.mustSync(New(), forwarding(t)) }, true},
				{"listed", func() { s.list(v) }, false},
				{"a packet is counted", func() {
					s.run("ping", "-c1", map[family.Family]string{family.IPv4: "127.0.0.1", family.IPv6: "::1"}[v.family])
				}, false},
				{"another table", func() { s.restore(v, "nat", "-A POSTROUTING -j RETURN") }, false},
				{"rule added", restore("-I FORWARD -j DOCKER-USER"), true},
				{"rule deleted", restore("-D OVERLAY-CNI-FWD 1"), true},
				{"rule moved to another chain", restore("-D FORWARD -j DOCKER-USER", "-I INPUT -j DOCKER-USER"), true},
				{"flushed", restore("-F"), true},
				{"policy of FORWARD", restore("-P FORWARD ACCEPT"), true},
				{"policy of FORWARD back", restore("-P FORWARD DROP"), true},
			} {
				tc.do()
				if changed := polled(); changed != tc.changes {
					t.Errorf("%s: a change was noticed: %t", tc.name, changed)
				}
			}
		})
	}
}

// A resync finds also what leaves all sizes as they were.
func TestForceResync(t *testing.T) {
	t.Parallel()
	eachVariant(t, func(t *testing.T, v variant, s space) {
		k, want := New(), forwarding(t)
		s.restore(v, "filter", docker()...)
		before := s.list(v)
		s.mustSync(k, want)
		s.mustSync(k, want)
		s.restore(v, "filter", "-R OVERLAY-CNI-FWD 1 -i cni1 -j ACCEPT")
		k.ForceResync()
		s.mustSync(k, want)
		checkOurs(t, before, s.list(v), -1)
	})
}

func TestWatch(t *testing.T) {
	t.Parallel()
	s, v := newSpace(t), variants()[2]
	s.restore(v, "filter", docker()...)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s.In(func() error { return New().Watch(ctx, cancel) })
	if err := ctx.Err(); !errors.Is(err, context.Canceled) {
		t.Errorf("no change was noticed: %v", err)
	}
}

// A rule that the program refuses changes nothing: all or none.
func TestRefusedChangesAreWhole(t *testing.T) {
	t.Parallel()
	s, v, k := newSpace(t), variants()[2], New()
	s.restore(v, "filter", docker()...)
	s.mustSync(k, forwarding(t))
	before := s.list(v)
	bad := forwarding(t)
	bad[v.family] = []Rule{{In: "other0"}, {In: "a-name-that-is-too-long"}}
	for range 2 { // the second time, nothing has changed since
		if _, err := s.sync(k, bad); err == nil || !strings.Contains(err.Error(), "too-long") {
			t.Errorf("got %v", err)
		}
	}
	if diff := cmp.Diff(before, s.list(v)); diff != "" {
		t.Error(diff)
	}
}
