package hosts

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
)

var (
	soakTime = flag.Duration("soak", 10*time.Second, "how long the soak test does things at random")
	soakSeed = flag.Uint64("soak-seed", 0, "what the soak test's choices follow from; 0: the time")
)

// TestSoak does to hosts at random what operators, runtimes and accidents do,
// several things at a time and without waiting for them to be mended. Then it
// compares what the kernel has with what it should have, entry by entry.
func TestSoak(t *testing.T) {
	t.Parallel()
	seed := *soakSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	registries := map[string]soakRegistry{"file": &soakFile{}, "etcd": &soakEtcd{}}
	for _, name := range slices.Sorted(maps.Keys(registries)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they wait more than they work
			t.Logf("to have the same choices again: -soak-seed %d", seed)
			s := newSoak(t, seed, registries[name])
			s.run(*soakTime)
			s.settle(withPatience(t))
			s.awaitPeers()
			s.breakEntries()
			s.awaitPeers()
			s.compare(withPatience(t))
		})
	}
}

type soak struct {
	*fleet
	rng      *rand.Rand
	registry soakRegistry
	damages  []damage
	wires    map[*lab.Host]*wire
	ports    map[*lab.Pod]int // of the host, where the pod has one
	made     int              // pods, ever
}

func newSoak(t *testing.T, seed uint64, r soakRegistry) *soak {
	t.Helper()
	s := &soak{
		rng: rand.New(rand.NewPCG(seed, seed)), registry: r, damages: damages(),
		wires: map[*lab.Host]*wire{}, ports: map[*lab.Pod]int{},
		fleet: newIdleFleet(t, 4, noResync, readConfig),
	}
	s.configure("")
	for _, h := range s.hosts {
		s.wires[h] = &wire{host: h, device: "eth0", address: h.Addresses()[0]}
	}
	r.begin(withPatience(t), s)
	for _, h := range s.hosts {
		ctx := withPatience(t)
		_, err := h.StartDaemon(ctx, r.args(h)...)
		s.must(err)
		s.pods = append(s.pods, s.addPod(ctx, h, "pod"))
	}
	return s
}

func (s *soak) run(long time.Duration) {
	s.t.Helper()
	end := time.Now().Add(long)
	steps := 0
	for ; time.Now().Before(end) && !s.t.Failed(); steps++ {
		s.step(withPatience(s.t))
	}
	s.t.Logf("%d steps", steps)
	if steps < 10 {
		s.t.Errorf("only %d steps: that is no soak", steps)
	}
}

// step makes one random change.
func (s *soak) step(ctx context.Context) {
	h := s.hosts[s.rng.IntN(len(s.hosts))]
	switch s.rng.IntN(16) {
	case 0, 1, 2, 3:
		d := s.damages[s.rng.IntN(len(s.damages))]
		s.tolerate(d.name, d.do(h.Handle()))
	case 4:
		s.breakRules(h)
	case 5:
		s.breakIPTables(h)
	case 6:
		s.turnSwitch(h)
	case 7, 8, 9:
		s.changePods(ctx, h)
	case 10, 11:
		s.registry.change(ctx, s)
	case 12:
		s.configure([]string{"", "mtu: 1400", "vxlan: {vni: 9}", "vxlan: {port: 8472}", "masquerade: false"}[s.rng.IntN(5)] + "\n")
	case 13:
		s.must(h.Daemon().Kill())
		s.launch(h, s.registry.args(h)...)
	case 14, 15:
		s.breakUnderlay(h)
	}
	// Some of the next changes meet the daemons at work, some at rest.
	pause := time.NewTimer(time.Duration(s.rng.IntN(200)) * time.Millisecond)
	defer pause.Stop()
	<-pause.C
}

// tolerate logs the error of a damage to something that an earlier damage has
// removed and that is not back yet.
func (s *soak) tolerate(what string, err error) {
	if err != nil {
		s.t.Logf("%s: %v", what, err)
	}
}

// changePods adds a pod or takes one away, with the runtime's DEL or without.
func (s *soak) changePods(ctx context.Context, h *lab.Host) {
	pods := h.Pods()
	if len(pods) < 3 || s.rng.IntN(2) == 0 {
		s.made++
		// The daemon may be taking the bridge's place of somebody.
		s.tolerate("add a pod", s.add(ctx, h, fmt.Sprint("pod-", s.made)))
		return
	}
	p := pods[s.rng.IntN(len(pods))]
	if s.rng.IntN(2) == 0 {
		s.must(p.Vanish())
		return
	}
	s.tolerate("delete a pod", p.Delete(ctx))
}

// add makes a pod; every other one has a port of its host.
func (s *soak) add(ctx context.Context, h *lab.Host, name string) error {
	port, config := 0, map[string]any{"waitSeconds": 1} // the host may have left the registry
	if s.made%2 == 0 {
		port = 8000 + s.made
		config["runtimeConfig"] = map[string]any{
			"portMappings": []map[string]any{{"hostPort": port, "containerPort": 80, "protocol": "tcp"}},
		}
	}
	pod, err := h.AddPod(ctx, lab.PodSpec{Name: name, Config: h.PluginConfig(config)})
	if err == nil {
		s.ports[pod] = port
	}
	return err
}

// breakEntries damages single entries only, so that no other fault makes the
// daemons read all entries.
func (s *soak) breakEntries() {
	s.t.Helper()
	const each = 5
	all := entryDamages(modes[2])
	for _, h := range s.hosts {
		for range each {
			d := all[s.rng.IntN(len(all))]
			s.tolerate(d.name, d.do(h.Handle()))
		}
	}
}

// settle ends the damage and adds a last pod with a host port to each host. The
// last change of a host is another address.
func (s *soak) settle(ctx context.Context) {
	s.configure("")
	for _, h := range s.hosts {
		s.wires[h].address = s.otherAddress(h)
		s.mendUnderlay(h)
	}
	s.registry.settle(ctx, s)
	s.made += 2 - s.made%2 // another port than any pod has
	for i, h := range s.hosts {
		err := s.add(ctx, h, "last")
		for ; err != nil && ctx.Err() == nil; err = s.add(ctx, h, "last") {
			s.t.Logf("%s: add the last pod: %v", h.Name, err)
		}
		s.must(err)
		at := slices.IndexFunc(h.Pods(), func(p *lab.Pod) bool { return p.Name == "last" })
		s.pods[i] = h.Pods()[at]
	}
}

// awaitPeers returns when each host has exactly the entries for the others that
// it should have, with every device as it should be.
func (s *soak) awaitPeers() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), s.registry.patience())
	defer cancel()
	for i, h := range s.hosts {
		s.must(probe.Eventually(ctx, func(context.Context) error {
			nodes := s.registry.nodes(s)
			peers := slices.Delete(slices.Clone(nodes), i, i+1)
			w := s.wires[h]
			return errors.Join(knows(h, peers), s.carries(h, carrier{w.device, w.address.String(), 1450}))
		}))
	}
}

// compare checks each host: what it keeps for pods, all paths between pods, and
// the rules.
func (s *soak) compare(ctx context.Context) {
	for _, h := range s.hosts {
		s.eventually(ctx, func(context.Context) error { return s.exactly(h) })
	}
	for i, from := range s.hosts {
		for j, to := range s.pods {
			for _, p := range from.Pods() {
				if p != to {
					s.eventually(ctx, func(ctx context.Context) error { return ping(ctx, p, to) })
				}
			}
			s.knock(ctx, from, to)
			if i != j {
				s.unmasked(ctx, s.pods[i], to)
			}
		}
	}
	s.nothingToDo(ctx)
}

// knock opens the port that a pod has of its host.
func (s *soak) knock(ctx context.Context, from *lab.Host, to *lab.Pod) {
	s.t.Helper()
	server, err := probe.ServeMirror(to.Netns(), netip.AddrPortFrom(to.Addresses[0], 80))
	s.must(err)
	defer server.Close()
	_, err = probe.TCP(ctx, from.Netns(), netip.AddrPortFrom(s.wires[to.Host].address, uint16(s.ports[to])))
	s.must(err)
}

// unmasked checks which address one pod sees of another.
func (s *soak) unmasked(ctx context.Context, from, to *lab.Pod) {
	s.t.Helper()
	for i, a := range to.Addresses {
		if seen := s.seenBy(ctx, to.Netns(), a, from); seen != from.Addresses[i] {
			s.t.Errorf("%s sees %s as %s", a, from.Addresses[i], seen)
		}
	}
}

// exactly compares the pods of a host with what the host keeps for pods.
func (s *soak) exactly(h *lab.Host) error {
	var want, have []string
	for _, p := range h.Pods() {
		want = append(want, "pod "+p.Netns().Name())
		if port := s.ports[p]; port != 0 {
			want = append(want, fmt.Sprintf("ports4 %d", port), fmt.Sprintf("ports6 %d", port))
		}
		for _, a := range p.Addresses {
			want = append(want, "address "+a.String())
		}
	}
	for _, l := range s.attached(h) {
		if port, ok := portOf(l); ok {
			have = append(have, port)
		}
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

// portOf finds the port in what portLines writes: the last four bytes of a key
// are the port and two bytes of padding.
func portOf(line string) (string, bool) {
	fields := strings.Fields(line)
	if fields[0] != "port" || !strings.HasPrefix(fields[1], "ports") {
		return "", false
	}
	key := fields[2]
	port, err := strconv.ParseUint(key[len(key)-8:len(key)-4], 16, 16)
	return fmt.Sprint(fields[1], " ", port), err == nil
}

// nothingToDo restarts all daemons. A daemon that changes anything logs it. For some
// time hosts also take packets from addresses that others had before, which a daemon
// forgets when it ends: only after that a new one has nothing to do.
func (s *soak) nothingToDo(ctx context.Context) {
	for _, h := range s.hosts {
		s.eventually(ctx, func(context.Context) error { return s.takesFromRegistered(h) })
	}
	for _, h := range s.hosts {
		s.stop(ctx, h)
		s.nft(h, "list", "table", "inet", "overlay-cni")
		d := s.start(ctx, h, s.registry.args(h)...)
		s.must(d.Log.Wait(ctx, "msg=reconciled round=pods"))
		s.registry.awaitNodes(ctx, s, h)
		if log := d.Log.String(); strings.Contains(log, `msg="changed `) || strings.Contains(log, "published this node") {
			s.t.Errorf("%s: there was something left to change:\n%s", h.Name, log)
		}
	}
}

// takesFromRegistered returns nil if a host takes the tunnel's packets from the
// registered addresses of the other hosts and from no other address.
func (s *soak) takesFromRegistered(h *lab.Host) error {
	var want []netip.Addr
	for _, n := range s.registry.nodes(s) {
		if n.name != h.Name {
			want = append(want, n.addresses...)
		}
	}
	have, err := tunnelSources(h)
	if err != nil {
		return err
	}
	slices.SortFunc(want, netip.Addr.Compare)
	slices.SortFunc(have, netip.Addr.Compare)
	if !slices.Equal(have, want) {
		return fmt.Errorf("%s takes the tunnel's packets from %s and not %s", h.Name, have, want)
	}
	return nil
}

// tunnelSources are the addresses from which a host takes the tunnel's packets.
func tunnelSources(h *lab.Host) ([]netip.Addr, error) {
	var all []netip.Addr
	for _, set := range []string{"peers4", "peers6"} {
		text, err := nft(h, "list", "set", "inet", "overlay-cni", set)
		if err != nil {
			return nil, err
		}
		_, elements, _ := strings.Cut(text, "elements = {")
		elements, _, _ = strings.Cut(elements, "}")
		for _, e := range strings.FieldsFunc(elements, func(r rune) bool { return r == ',' || unicode.IsSpace(r) }) {
			a, err := netip.ParseAddr(e)
			if err != nil {
				return nil, err
			}
			all = append(all, a)
		}
	}
	return all, nil
}
