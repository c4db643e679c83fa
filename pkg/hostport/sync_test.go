package hostport

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/overlay-cni/overlay-cni/internal/nft"
	"github.com/overlay-cni/overlay-cni/internal/sysctl"
)

func listOf(pods ...Pod) func() (Want, error) {
	return func() (Want, error) { return Want{Bridge: "lo", Pods: pods}, nil }
}

func (m *machine) sync(list func() (Want, error)) []string {
	m.t.Helper()
	var changes []string
	inside(m.t, m.host, func(k *Kernel) (err error) {
		changes, err = k.Sync(list)
		return err
	})
	return changes
}

// settled looks that the table is as wanted, and that another Sync changes
// nothing.
func (m *machine) settled(pods ...Pod) {
	m.t.Helper()
	m.holds(pods...)
	if changes := m.sync(listOf(pods...)); len(changes) > 0 {
		m.t.Errorf("another Sync changed %q", changes)
	}
}

func TestSync(t *testing.T) {
	t.Parallel()
	m := newHost(t)
	if changes := m.sync(listOf()); len(changes) > 0 || m.table() != nil {
		t.Errorf("a table was made for nothing: %q", changes)
	}
	one, two := web(2, 8080), web(3, 8081)
	changes := m.sync(listOf(one, two))
	want := []string{
		"table inet overlay-cni-ports: made with 5 elements (was missing)",
		"sysctl net.ipv4.conf.lo.route_localnet from 0 to 1",
	}
	if !slices.Equal(changes, want) {
		t.Errorf("changes %q, want %q", changes, want)
	}
	m.settled(one, two)
	changes = m.sync(listOf(two))
	want = []string{
		"table inet overlay-cni-ports, map ports4: removed tcp . 8080 : 10.244.0.2 . 80",
		"table inet overlay-cni-ports, set hairpin4: removed 10.244.0.2 . 10.244.0.2",
	}
	if !slices.Equal(changes, want) {
		t.Errorf("changes %q, want %q", changes, want)
	}
	m.settled(two)
	two.Mappings[0].ContainerPort = 81
	m.sync(listOf(two))
	m.settled(two)
	m.sync(listOf())
	m.settled()
}

// Check finds any damage, and one Sync repairs it and reports it. Elements of busy pods
// stay. The engine's tests have more kinds of damage.
func TestSyncMends(t *testing.T) {
	t.Parallel()
	one, busy := web(2, 8080), web(3, 8081)
	busy.Busy = true
	id := table()
	const ours = "table inet overlay-cni-ports"
	bridge, pair, port := one.elements()[0], one.elements()[1], one.elements()[2]
	other, foreign := web(9, 8080).elements()[2], web(9, 9090).elements()[2]
	for _, tc := range []struct {
		name   string
		damage []nft.Op
		told   string
		check  string
	}{
		{"table deleted", []nft.Op{id.DeleteTable()}, ours + ": made with 3 elements (was missing)", ours + " is gone"},
		{"chain flushed", []nft.Op{id.FlushChain("output")}, ours + ", chain output: refilled (rule 1 was missing)", "chain output: rule 1 was missing"},
		{"rule added", []nft.Op{id.AddRule("postrouting", nft.NewRule("", nft.Drop.Exprs()))},
			ours + ", chain postrouting: refilled (rule 4 does not belong there)", "chain postrouting: rule 4 does not belong there"},
		{"foreign set", []nft.Op{id.MakeSet(nft.NewSet("foreign", nft.Port), 1), id.AddElements(nft.Element{Set: "foreign", Key: "\x00\x50"})},
			ours + ", set foreign: removed (does not belong there)", "set foreign: does not belong there"},
		{"set altered", []nft.Op{id.FlushChain("prerouting"), id.FlushChain("output"), id.DeleteSet("ports4"), id.MakeSet(nft.NewSet("ports4", nft.Port), 1),
			id.AddElements(nft.Element{Set: "ports4", Key: "\x00\x50"})}, ours + ", map ports4: replaced (was altered)", "map ports4: was altered"},
		{"port closed", []nft.Op{id.DeleteElements(port)}, ours + ", map ports4: added tcp . 8080 : 10.244.0.2 . 80", "map ports4: tcp . 8080 : 10.244.0.2 . 80 is gone"},
		{"hairpin deleted", []nft.Op{id.DeleteElements(pair)}, ours + ", set hairpin4: added 10.244.0.2 . 10.244.0.2", "set hairpin4: 10.244.0.2 . 10.244.0.2 is gone"},
		{"bridge deleted", []nft.Op{id.DeleteElements(bridge)}, ours + ", set bridges: added lo", "set bridges: lo is gone"},
		{"port led elsewhere", []nft.Op{id.DeleteElements(port), id.AddElements(other)}, ours + ", map ports4: removed tcp . 8080 : 10.244.0.9 . 80",
			"map ports4: tcp . 8080 : 10.244.0.9 . 80 instead of map ports4: tcp . 8080 : 10.244.0.2 . 80"},
		{"foreign port", []nft.Op{id.AddElements(foreign)}, ours + ", map ports4: removed tcp . 9090 : 10.244.0.9 . 80", ""},
		{"all other ports", []nft.Op{id.AddElements(nft.Element{Set: "ports4", Data: other.Data})}, ours + ", map ports4: removed * : 10.244.0.9 . 80", ""},
		{"all other bridges", []nft.Op{id.AddElements(nft.Element{Set: bridges})}, ours + ", set bridges: removed *", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := newHost(t)
			m.add(one)
			m.add(busy)
			m.transact(tc.damage...)
			m.checks(one, tc.check)
			changes := m.sync(listOf(one, busy))
			if !slices.Contains(changes, tc.told) {
				t.Errorf("Sync changed %q, want %q", changes, tc.told)
			}
			if tc.name == "table deleted" || tc.name == "set altered" {
				m.add(busy) // its ADD, which Sync left alone
			}
			m.holds(one, busy)
			m.checks(one, "")
			if changes := m.sync(listOf(one, busy)); len(changes) > 0 {
				t.Errorf("another Sync changed %q", changes)
			}
		})
	}
}

// checks looks that a Check of the pod finds what is said, or nothing.
func (m *machine) checks(p Pod, want string) {
	m.t.Helper()
	inside(m.t, m.host, func(k *Kernel) error {
		diffs, err := k.Check(p)
		if (want == "") != (len(diffs) == 0) || !strings.Contains(strings.Join(diffs, "\n"), want) {
			m.t.Errorf("Check says %q, want %q", diffs, want)
		}
		return err
	})
}

// A bridge that has route_localnet is protected even if no pod has ports, and
// stays so.
func TestProtectionOutlivesPods(t *testing.T) {
	t.Parallel()
	m := newHost(t)
	m.add(web(2, 8080))
	protected := func(after string) {
		if !slices.Contains(m.table().Elements, localnet("lo")) {
			t.Errorf("after %s the bridge is open", after)
		}
	}
	m.delete(web(2, 8080))
	protected("a Delete")
	m.sync(listOf())
	protected("a Sync")
	m.sync(func() (Want, error) { return Want{}, nil }) // by a daemon with another bridge
	protected("a Sync for another bridge")
	m.transact(table().DeleteTable())
	m.sync(listOf())
	protected("the table's loss")
	m.settled()
}

func TestSyncOpensLocalhost(t *testing.T) {
	t.Parallel()
	m := newHost(t)
	p := web(2, 8080)
	m.add(p)
	must(t, m.host.Do(func() error {
		_, err := sysctl.Sync([]sysctl.Parameter{{Path: localnetPath("lo"), Value: "0"}})
		return err
	}))
	m.checks(p, `sysctl net.ipv4.conf.lo.route_localnet is "0", not 1`)
	if changes := m.sync(listOf(p)); !slices.Equal(changes, []string{"sysctl net.ipv4.conf.lo.route_localnet from 0 to 1"}) {
		t.Errorf("changes %q", changes)
	}
	m.settled(p)
}

// What plugins do between the read and the transaction is not undone: Sync
// begins again.
func TestSyncAndPlugins(t *testing.T) {
	t.Parallel()
	m := newHost(t)
	old, next, fresh := web(2, 8080), web(3, 8080), web(4, 8081)
	m.add(old)
	calls := 0
	m.sync(func() (Want, error) {
		calls++
		if calls == 1 {
			// The records know nothing of old, which ends just now. Its port and
			// its address are given to others; one of them is the same again.
			m.delete(old)
			m.add(next)
			m.add(fresh)
			return Want{Bridge: "lo"}, nil
		}
		return Want{Bridge: "lo", Pods: []Pod{next, fresh}}, nil
	})
	if calls != 2 {
		t.Errorf("the records were listed %d times, want 2", calls)
	}
	m.settled(next, fresh)
}

// Sync adds no elements for a busy pod: if its DEL has already looked for elements, it
// would not delete new ones.
func TestSyncAddsNothingToBusyPods(t *testing.T) {
	t.Parallel()
	m := newHost(t)
	one, busy := web(2, 8080), web(3, 8081)
	busy.Busy = true
	if changes := m.sync(listOf(busy)); len(changes) > 0 {
		t.Errorf("changes %q", changes)
	}
	m.sync(listOf(one, busy))
	m.settled(one)
}

// An ADD that was killed between its record and its ports leaves a record that
// claims another pod's port.
func TestSyncKeepsThePortWithItsHolder(t *testing.T) {
	t.Parallel()
	m := newHost(t)
	holder, dead := web(2, 8080), web(3, 8080)
	m.add(holder)
	m.sync(listOf(dead, holder))
	e := holder.elements()[2]
	if !slices.Contains(m.table().Elements, e) {
		t.Error("the port changed hands")
	}
	if changes := m.sync(listOf(dead, holder)); len(changes) > 0 {
		t.Errorf("another Sync changed %q", changes)
	}
	m.transact(table().DeleteTable())
	m.sync(listOf(holder, dead))
	if !slices.Contains(m.table().Elements, e) {
		t.Error("the port is not the older pod's")
	}
}

func TestSyncReportsWhatListSays(t *testing.T) {
	t.Parallel()
	m := newHost(t)
	broken := errors.New("broken")
	err := tryIn(m.host, func(k *Kernel) error {
		_, err := k.Sync(func() (Want, error) { return Want{}, broken })
		return err
	})
	if !errors.Is(err, broken) || m.table() != nil {
		t.Errorf("error %v, want %v", err, broken)
	}
}

// As many as a host has that is full, and as fit without being root.
func TestSyncOfManyPods(t *testing.T) {
	t.Parallel()
	m := newHost(t)
	var pods []Pod
	for i := range 600 {
		p := web(i, uint16(10000+i))
		for j := range 4 {
			p.Mappings = append(p.Mappings, Mapping{HostPort: uint16(20000 + 4*i + j), ContainerPort: 80, Protocol: UDP})
		}
		pods = append(pods, p)
	}
	m.sync(listOf(pods...))
	m.settled(pods...)
	m.sync(listOf(pods[:300]...))
	m.settled(pods[:300]...)
}

// Sync takes the kernel from any state to any other, while plugins work at the same
// time.
func TestSyncReachesRandomStates(t *testing.T) {
	t.Parallel()
	m := newHost(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	plugin := web(1000, 30000)
	plugin.Busy = true
	stop := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				err := errors.Join(
					tryIn(m.host, func(k *Kernel) error { return k.Add(plugin) }),
					tryIn(m.host, func(k *Kernel) error { return k.Delete(plugin) }))
				if err != nil {
					t.Error(err)
				}
			}
		}
	})
	var pods []Pod
	for range 50 {
		pods = randomPods(r)
		m.sync(listOf(append(pods, plugin)...))
	}
	close(stop)
	done.Wait()
	m.sync(listOf(pods...))
	m.settled(pods...)
}

// randomPods have ports of their own: the number of the pod and of the mapping.
func randomPods(r *rand.Rand) []Pod {
	var pods []Pod
	for _, i := range r.Perm(20)[:r.IntN(20)] {
		p := web(i, uint16(1000+10*i))
		p.Addresses = append(p.Addresses, netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(i)}))
		for j := range r.IntN(4) {
			hosts := []netip.Addr{{}, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.IPv6Unspecified()}
			p.Mappings = append(p.Mappings, Mapping{
				HostPort: uint16(1001 + 10*i + j), ContainerPort: uint16(1 + r.IntN(3)),
				Protocol: []Protocol{TCP, UDP, SCTP}[r.IntN(3)], HostIP: hosts[r.IntN(len(hosts))],
			})
		}
		pods = append(pods, p)
	}
	return pods
}

// Remove deletes the table with all ports, and says so once.
func TestRemove(t *testing.T) {
	t.Parallel()
	m := newHost(t)
	m.add(web(2, 8080))
	for _, want := range [][]string{{"table inet overlay-cni-ports: removed"}, nil} {
		inside(t, m.host, func(k *Kernel) error {
			changes, err := k.Remove()
			if !slices.Equal(changes, want) {
				t.Errorf("changes %q, want %q", changes, want)
			}
			return err
		})
		if m.table() != nil {
			t.Error("there is a table")
		}
	}
}
