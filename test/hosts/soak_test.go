package hosts

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/pkg/firewall"
)

var (
	soakTime = flag.Duration("soak", 15*time.Second, "how long the soak test does things at random")
	soakSeed = flag.Uint64("soak-seed", 0, "what the soak test's choices follow from; 0: the time")
)

// TestSoak does to hosts at random what operators, runtimes and accidents do,
// several things at a time and without waiting for them to be mended. Then it
// compares what the kernel has with what it should have, entry by entry.
func TestSoak(t *testing.T) {
	seed := *soakSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("to have the same choices again: -soak-seed %d", seed)
	s := &soak{
		rng:      rand.New(rand.NewPCG(seed, seed)),
		damages:  damages(),
		original: map[string]entry{},
		fleet: newIdleFleet(t, 4, func(c *lab.Config) {
			noResync(c)
			c.DaemonArgs = append(c.DaemonArgs, "--config", filepath.Join(c.Dir, configFile))
		}),
	}
	s.configure("")
	for _, h := range s.hosts {
		ctx := withPatience(t)
		s.start(ctx, h)
		s.pods = append(s.pods, s.addPod(ctx, h, "pod"))
	}
	for _, e := range entries(s.hosts...) {
		s.nodes, s.original[e.name] = append(s.nodes, e), e
	}
	end := time.Now().Add(*soakTime)
	steps := 0
	for ; time.Now().Before(end) && !t.Failed(); steps++ {
		s.step(withPatience(t))
	}
	t.Logf("%d steps", steps)
	if steps < 20 {
		t.Errorf("only %d steps: that is no soak", steps)
	}
	s.settle(withPatience(t))
	s.compare(withPatience(t))
}

type soak struct {
	*fleet
	rng      *rand.Rand
	damages  []damage
	nodes    []entry // what the registry has
	original map[string]entry
	made     int // pods, ever
}

// step does one thing.
func (s *soak) step(ctx context.Context) {
	h := s.hosts[s.rng.IntN(len(s.hosts))]
	switch s.rng.IntN(12) {
	case 0, 1, 2, 3:
		d := s.damages[s.rng.IntN(len(s.damages))]
		s.tolerate(d.name, d.do(h.Handle()))
	case 4:
		s.breakRules(h)
	case 5:
		s.setSysctl(h, "net/ipv4/ip_forward", "0")
	case 6, 7, 8:
		s.changePods(ctx, h)
	case 9:
		s.editRegistry()
	case 10:
		s.configure([]string{"", "mtu: 1400", "vxlan: {vni: 9}", "masquerade: false"}[s.rng.IntN(4)] + "\n")
	case 11:
		s.must(h.Daemon().Kill())
		s.launch(h)
	}
	// Some of the next things meet the daemons at work, some at rest.
	pause := time.NewTimer(time.Duration(s.rng.IntN(200)) * time.Millisecond)
	defer pause.Stop()
	<-pause.C
}

// tolerate is for damage to what an earlier damage has taken away, which isn't
// back yet.
func (s *soak) tolerate(what string, err error) {
	if err != nil {
		s.t.Logf("%s: %v", what, err)
	}
}

func (s *soak) breakRules(h *lab.Host) {
	all := ruleDamages()
	names := slices.Sorted(maps.Keys(all))
	name := names[s.rng.IntN(len(names))]
	s.tolerate(name, changeRules(h, all[name]))
}

// changePods adds a pod or takes one away, with the runtime's DEL or without.
func (s *soak) changePods(ctx context.Context, h *lab.Host) {
	pods := h.Pods()
	if len(pods) < 3 || s.rng.IntN(2) == 0 {
		s.made++
		_, err := h.AddPod(ctx, lab.PodSpec{Name: fmt.Sprint("pod-", s.made)})
		s.tolerate("add a pod", err) // the daemon may be taking the bridge's place of somebody
		return
	}
	p := pods[s.rng.IntN(len(pods))]
	if s.rng.IntN(2) == 0 {
		s.must(p.Vanish())
		return
	}
	s.tolerate("delete a pod", p.Delete(ctx))
}

// editRegistry has nodes leave, come back, and get a subnet more or less.
func (s *soak) editRegistry() {
	i := s.rng.IntN(len(s.hosts))
	e := s.original[s.hosts[i].Name]
	at := slices.IndexFunc(s.nodes, func(n entry) bool { return n.name == e.name })
	switch {
	case at < 0:
		s.nodes = append(s.nodes, e)
	case s.rng.IntN(2) == 0:
		s.nodes = slices.Delete(slices.Clone(s.nodes), at, at+1)
	default:
		e.subnets = append(slices.Clone(e.subnets), netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/26", 200+i)))
		s.nodes = slices.Clone(s.nodes)
		s.nodes[at] = e
	}
	s.register(s.nodes)
}

// settle ends the accidents: registry and configuration are as in the beginning.
func (s *soak) settle(ctx context.Context) {
	s.configure("")
	s.register(entries(s.hosts...))
	for i, h := range s.hosts {
		pod, err := h.AddPod(ctx, lab.PodSpec{Name: "last"})
		for ; err != nil && ctx.Err() == nil; pod, err = h.AddPod(ctx, lab.PodSpec{Name: "last"}) {
			s.t.Logf("%s: add the last pod: %v", h.Name, err)
		}
		s.must(err)
		s.pods[i] = pod
	}
}

// compare looks at each host: at all entries for peers, at the rules, and at
// what is there of pods.
func (s *soak) compare(ctx context.Context) {
	nodes := entries(s.hosts...)
	for i, h := range s.hosts {
		peers := slices.Delete(slices.Clone(nodes), i, i+1)
		s.eventually(ctx, func(context.Context) error {
			return errors.Join(knows(h, peers), s.carries(h, carrier{"eth0", h.Addresses()[0].String(), 1450}), s.exactly(h))
		})
	}
	for _, from := range s.hosts {
		for _, to := range s.pods {
			for _, p := range from.Pods() {
				if p != to {
					s.eventually(ctx, func(ctx context.Context) error { return ping(ctx, p, to) })
				}
			}
		}
	}
	s.nothingToDo(ctx)
}

// exactly compares the pods of a host with what is there of pods.
func (s *soak) exactly(h *lab.Host) error {
	var want, have []string
	for _, p := range h.Pods() {
		want = append(want, "pod "+p.Netns().Name())
		for _, a := range p.Addresses {
			want = append(want, "address "+a.String())
		}
	}
	for _, l := range s.attached(h) {
		path, isFile := strings.CutPrefix(l, "file "+h.RunDir()+"/")
		switch kind, name, _ := strings.Cut(path, "/"); {
		case isFile && kind == "addresses":
			have = append(have, "address "+name)
		case isFile && kind == "attachments":
			name, _, _ = strings.Cut(name, "@")
			have = append(have, "pod "+name)
		}
	}
	slices.Sort(want)
	slices.Sort(have)
	if !slices.Equal(want, have) {
		return fmt.Errorf("%s has of its pods\n%v\nand not\n%v", h.Name, have, want)
	}
	return nil
}

// nothingToDo starts all daemons anew: those that find anything to change would
// say so.
func (s *soak) nothingToDo(ctx context.Context) {
	for _, h := range s.hosts {
		s.stop(ctx, h)
		table, err := firewall.New(firewall.InNetns(h.Netns().FD())).Read()
		if err != nil || !table.Present {
			s.t.Errorf("%s: the firewall table: %+v, %v", h.Name, table, err)
		}
		d := s.start(ctx, h)
		s.must(d.Log.Wait(ctx, "reconciled pods"))
		if log := d.Log.String(); strings.Contains(log, "changed") || strings.Contains(log, "published") {
			s.t.Errorf("%s: there was something left to change:\n%s", h.Name, log)
		}
	}
}
