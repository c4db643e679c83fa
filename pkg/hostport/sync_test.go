package hostport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

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
	m := newHost(t)
	if changes := m.sync(listOf()); len(changes) > 0 || m.table().present {
		t.Errorf("a table was made for nothing: %q", changes)
	}
	one, two := web(2, 8080), web(3, 8081)
	changes := m.sync(listOf(one, two))
	want := []string{
		"table inet overlay-cni-ports rebuilt: it was missing",
		"table inet overlay-cni-ports: added 5 elements",
		"sysctl net.ipv4.conf.lo.route_localnet from 0 to 1",
	}
	if !slices.Equal(changes, want) {
		t.Errorf("changes %q, want %q", changes, want)
	}
	m.settled(one, two)
	changes = m.sync(listOf(two))
	want = []string{"table inet overlay-cni-ports: removed hairpin of 10.244.0.2, host port 8080/tcp to 10.244.0.2:80"}
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

// Each way to damage the table is undone by one Sync, told by it, and seen by
// a Check. Elements of pods that an ADD works on stay.
func TestSyncMends(t *testing.T) {
	one, busy := web(2, 8080), web(3, 8081)
	busy.Busy = true
	rules := func(chain string, steps ...attrs) message { return rule{"foreign", steps}.message(chain) }
	const rebuilt = "table inet overlay-cni-ports rebuilt: "
	for _, tc := range []struct {
		name   string
		damage []message
		told   string
		check  string
	}{
		{"table deleted", []message{deleteTable()}, rebuilt + "it was missing", "table inet overlay-cni-ports is gone"},
		{"table put to sleep", []message{tables(unix.NFT_MSG_NEWTABLE, 0, attrs{}.text(unix.NFTA_TABLE_NAME, TableName).u32(unix.NFTA_TABLE_FLAGS, 1))},
			rebuilt + "table was altered", "table was altered"},
		{"chain flushed", []message{flushChain("output")}, rebuilt + "chain output, rule 1 was missing", "chain output, rule 1 was missing"},
		{"chain deleted", []message{flushChain("localnet"), tables(unix.NFT_MSG_DELCHAIN, 0, attrs{}.text(unix.NFTA_CHAIN_TABLE, TableName).text(unix.NFTA_CHAIN_NAME, "localnet"))},
			rebuilt + "chain localnet was missing", "chain localnet was missing"},
		{"policy altered", []message{tables(unix.NFT_MSG_NEWCHAIN, 0, attrs{}.text(unix.NFTA_CHAIN_TABLE, TableName).text(unix.NFTA_CHAIN_NAME, "localnet").u32(unix.NFTA_CHAIN_POLICY, verdictDrop))},
			rebuilt + "chain localnet was altered", "chain localnet was altered"},
		{"rule added", []message{rules("postrouting", drop())}, rebuilt + "chain postrouting, rule 4 does not belong there", "rule 4"},
		{"rule of unknown kind added", []message{rules("postrouting", step("counter", nil))}, rebuilt + "chain postrouting, rule 4 does not belong there", "rule 4"},
		{"foreign chain", []message{tables(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, attrs{}.text(unix.NFTA_CHAIN_TABLE, TableName).text(unix.NFTA_CHAIN_NAME, "foreign"))},
			rebuilt + "chain foreign does not belong there", "chain foreign"},
		{"foreign set", []message{set{"foreign", []fieldType{portField()}, nil}.message(1)}, rebuilt + "set foreign does not belong there", "set foreign"},
		{"element deleted", elementMessages(unix.NFT_MSG_DELSETELEM, one.entries()[2:]),
			"table inet overlay-cni-ports: added host port 8080/tcp to 10.244.0.2:80", "host port 8080/tcp to 10.244.0.2:80 is gone"},
		{"hairpin deleted", elementMessages(unix.NFT_MSG_DELSETELEM, one.entries()[1:2]),
			"table inet overlay-cni-ports: added hairpin of 10.244.0.2", "hairpin of 10.244.0.2 is gone"},
		{"bridge deleted", elementMessages(unix.NFT_MSG_DELSETELEM, one.entries()[:1]), "table inet overlay-cni-ports: added bridge lo", "bridge lo is gone"},
		{"element altered", append(elementMessages(unix.NFT_MSG_DELSETELEM, one.entries()[2:]), elementMessages(unix.NFT_MSG_NEWSETELEM, web(9, 8080).entries()[2:])...),
			"table inet overlay-cni-ports: removed host port 8080/tcp to 10.244.0.9:80", "there is host port 8080/tcp to 10.244.0.9:80 instead of host port 8080/tcp to 10.244.0.2:80"},
		{"foreign element", elementMessages(unix.NFT_MSG_NEWSETELEM, web(9, 9090).entries()[2:]), "table inet overlay-cni-ports: removed host port 9090/tcp to 10.244.0.9:80", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newHost(t)
			m.add(one)
			m.add(busy)
			m.transact(tc.damage...)
			m.checks(one, tc.check)
			changes := m.sync(listOf(one, busy))
			if len(changes) == 0 || !strings.HasPrefix(changes[0], tc.told) {
				t.Errorf("Sync changed %q, want what begins with %q", changes, tc.told)
			}
			if tc.name == "table deleted" {
				m.add(busy) // which its ADD would do
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

// A rule that differs in one instruction, or in its comment, is another rule.
func TestEveryStepCounts(t *testing.T) {
	for _, c := range chains() {
		for _, r := range c.rules {
			want := canonicalRule(r.message(c.name).body)
			if canonicalRule(rule{"another", r.steps}.message(c.name).body) == want {
				t.Errorf("chain %s, rule %q: the comment can be altered unseen", c.name, r.comment)
			}
			for i := range r.steps {
				altered := slices.Clone(r.steps)
				altered[i] = meta(unix.NFT_META_LEN, 9)
				if canonicalRule(rule{r.comment, altered}.message(c.name).body) == want {
					t.Errorf("chain %s, rule %q: step %d can be altered unseen", c.name, r.comment, i+1)
				}
			}
		}
	}
}

// A bridge that has route_localnet is protected even if no pod has ports, and
// stays so.
func TestProtectionOutlivesPods(t *testing.T) {
	m := newHost(t)
	m.add(web(2, 8080))
	protected := func(after string) {
		if _, is := m.table().entries[localnet("lo").slot]; !is {
			t.Errorf("after %s the bridge is open", after)
		}
	}
	m.delete(web(2, 8080))
	protected("a Delete")
	m.sync(listOf())
	protected("a Sync")
	m.sync(func() (Want, error) { return Want{}, nil }) // by a daemon with another bridge
	protected("a Sync for another bridge")
	m.transact(deleteTable())
	m.sync(listOf())
	protected("the table's loss")
	m.settled()
}

func TestSyncOpensLocalhost(t *testing.T) {
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

// A pod that is being added or deleted gets nothing: a DEL that has looked for
// its elements already would leave them behind.
func TestSyncAddsNothingToBusyPods(t *testing.T) {
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
	m := newHost(t)
	holder, dead := web(2, 8080), web(3, 8080)
	m.add(holder)
	m.sync(listOf(dead, holder))
	s := m.table()
	e := holder.entries()[2]
	if s.entries[e.slot] != e.data {
		t.Error("the port changed hands")
	}
	if changes := m.sync(listOf(dead, holder)); len(changes) > 0 {
		t.Errorf("another Sync changed %q", changes)
	}
	m.transact(deleteTable())
	m.sync(listOf(holder, dead))
	if m.table().entries[e.slot] != e.data {
		t.Error("the port is not the older pod's")
	}
}

func TestSyncReportsWhatListSays(t *testing.T) {
	m := newHost(t)
	broken := errors.New("broken")
	err := tryIn(m.host, func(k *Kernel) error {
		_, err := k.Sync(func() (Want, error) { return Want{}, broken })
		return err
	})
	if !errors.Is(err, broken) || m.table().present {
		t.Errorf("error %v, want %v", err, broken)
	}
}

// As many as a host has that is full, and as fit without being root.
func TestSyncOfManyPods(t *testing.T) {
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

// Whatever one state follows on another, the kernel has it afterwards; plugins
// come and go all the while.
func TestSyncReachesRandomStates(t *testing.T) {
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

// A change while the table is read does not show as a mixture of old and new.
// The maps are read one after the other, so without a check it would.
func TestReadIsConsistent(t *testing.T) {
	m := newHost(t)
	one := web(2, 8080)
	one.Mappings = append(one.Mappings, Mapping{HostPort: 8081, ContainerPort: 80, Protocol: TCP, HostIP: netip.MustParseAddr("192.0.2.1")})
	ports := withoutBridges(one.entries())
	m.add(one)
	stop := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		err := tryIn(m.host, func(k *Kernel) error {
			return untilClosed(stop, func() error {
				return errors.Join(
					k.conn.transact(anyGeneration, elementMessages(unix.NFT_MSG_DELSETELEM, ports)),
					k.conn.transact(anyGeneration, elementMessages(unix.NFT_MSG_NEWSETELEM, ports)))
			})
		})
		if err != nil {
			t.Error(err)
		}
	})
	err := tryIn(m.host, func(k *Kernel) error {
		for range 300 {
			s, err := k.read()
			if errors.Is(err, ErrUnstable) {
				continue
			}
			if err != nil {
				return err
			}
			if n := len(s.entries); n != 1 && n != 1+len(ports) {
				return fmt.Errorf("a read gave %d elements, of which there are 1 or %d at a time", n, 1+len(ports))
			}
		}
		return nil
	})
	close(stop)
	done.Wait()
	must(t, err)
}
