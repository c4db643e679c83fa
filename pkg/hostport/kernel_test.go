package hostport

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/internal/nft"
)

// newHost is a namespace with nothing but lo, for tests without traffic.
func newHost(t testing.TB) *machine {
	t.Helper()
	return &machine{t: t, host: sandboxtest.NewNetns(t)}
}

// web is a pod with one port, on a bridge that is always there.
func web(i int, hostPort uint16) Pod {
	return Pod{
		Bridge:    "lo",
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)})},
		Mappings:  []Mapping{{HostPort: hostPort, ContainerPort: 80, Protocol: TCP}},
	}
}

// table is what the kernel has.
func (m *machine) table() *nft.Table {
	m.t.Helper()
	var have *nft.Table
	inside(m.t, m.host, func(k *Kernel) (err error) {
		have, _, err = k.conn.Read(table())
		return err
	})
	return have
}

// holds checks that the table is whole and has just what the pods need.
func (m *machine) holds(pods ...Pod) {
	m.t.Helper()
	have := m.table()
	if have == nil {
		m.t.Fatal("there is no table")
	}
	for _, d := range damage(have) {
		m.t.Error(d)
	}
	want := map[nft.Element]bool{}
	for _, p := range pods {
		for _, e := range p.elements() {
			want[e] = true
			if !slices.Contains(have.Elements, e) {
				m.t.Errorf("%s is not there", text(e))
			}
		}
	}
	for _, e := range have.Elements {
		if !want[e] && e.Set != bridges {
			m.t.Errorf("%s is left", text(e))
		}
	}
}

func TestAddAndDelete(t *testing.T) {
	t.Parallel()
	m := newHost(t)
	one, two := web(2, 8080), web(3, 8081)
	if m.table() != nil {
		t.Fatal("there is a table at first")
	}
	m.delete(one) // without a table
	m.add(one)
	m.holds(one)
	m.add(one)
	m.add(two)
	m.holds(one, two)
	m.delete(one)
	m.holds(two)
	m.delete(one)
	m.holds(two)
	m.delete(two)
	m.holds()
	m.transact(table().DeleteTable())
	m.delete(two)
	m.add(two)
	m.holds(two)
}

// A pod without host ports costs nothing and leaves nothing.
func TestNoMappings(t *testing.T) {
	t.Parallel()
	m := newHost(t)
	p := web(2, 8080)
	p.Mappings = nil
	m.add(p)
	m.delete(p)
	if m.table() != nil {
		t.Error("there is a table")
	}
}

func TestTaken(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, first, second, err string }{
		{"all addresses", `[{"hostPort":8080,"containerPort":80}]`, `[{"hostPort":8079,"containerPort":80},{"hostPort":8080,"containerPort":81}]`,
			"host port is taken: 8080/tcp leads to 10.244.0.2:80 already"},
		{"one address", `[{"hostPort":8080,"containerPort":80,"protocol":"udp","hostIP":"192.0.2.1"}]`, `[{"hostPort":8080,"containerPort":81,"protocol":"udp","hostIP":"192.0.2.1"}]`,
			"host port is taken: 192.0.2.1:8080/udp leads to 10.244.0.2:80 already"},
		{"another protocol", `[{"hostPort":8080,"containerPort":80}]`, `[{"hostPort":8080,"containerPort":80,"protocol":"udp"}]`, ""},
		{"another address", `[{"hostPort":8080,"containerPort":80,"hostIP":"192.0.2.1"}]`, `[{"hostPort":8080,"containerPort":80,"hostIP":"192.0.2.2"}]`, ""},
		{"one of all", `[{"hostPort":8080,"containerPort":80}]`, `[{"hostPort":8080,"containerPort":80,"hostIP":"192.0.2.2"}]`, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := newHost(t)
			pods := [2]Pod{web(2, 0), web(3, 0)}
			for i, data := range []string{tc.first, tc.second} {
				var err error
				pods[i].Mappings, err = Parse([]byte(data))
				must(t, err)
			}
			m.add(pods[0])
			err := tryIn(m.host, func(k *Kernel) error { return k.Add(pods[1]) })
			if tc.err == "" {
				must(t, err)
				m.holds(pods[0], pods[1])
				return
			}
			var taken *TakenError
			if !errors.Is(err, ErrTaken) || !errors.As(err, &taken) || err.Error() != tc.err || taken.Holder.Pod != pods[0].Addresses[0] {
				t.Errorf("error %v\nwant  %s", err, tc.err)
			}
			m.holds(pods[0]) // nothing of the second
			m.delete(pods[1])
			m.holds(pods[0]) // the port is the other pod's
		})
	}
}

// Ports that lead to a sibling's address are open already; Add opens the others. If a
// stranger has one of the ports, Add opens none.
func TestSibling(t *testing.T) {
	t.Parallel()
	m := newHost(t)
	first, second, stranger := web(2, 8080), web(3, 8080), web(9, 9090)
	for port := range uint16(200) { // more than one question to the kernel has
		both := Mapping{HostPort: 20_000 + port, ContainerPort: port + 1, Protocol: UDP}
		first.Mappings, second.Mappings = append(first.Mappings, both), append(second.Mappings, both)
	}
	common := len(second.Mappings)
	second.Mappings = append(second.Mappings, Mapping{HostPort: 53, ContainerPort: 53, Protocol: UDP})
	second.Addresses = append(second.Addresses, netip.MustParseAddr("fd00::3"))
	second.Sibling = func(a netip.Addr) bool { return a == first.Addresses[0] }
	rest := Pod{Bridge: "lo", Addresses: second.Addresses[:1], Mappings: second.Mappings[common:]}
	rest6 := Pod{Bridge: "lo", Addresses: second.Addresses[1:], Mappings: second.Mappings}
	m.add(first)
	m.checks(second, "map ports4: udp . 53 : 10.244.0.3 . 53 is gone")
	for range 2 {
		m.add(second)
		m.holds(first, rest, rest6)
		m.checks(second, "")
		m.checks(first, "")
	}
	m.delete(second)
	m.holds(first)
	m.add(stranger)
	second.Mappings = append(second.Mappings, stranger.Mappings...)
	if err := tryIn(m.host, func(k *Kernel) error { return k.Add(second) }); !errors.Is(err, ErrTaken) {
		t.Errorf("a stranger's port: %v", err)
	}
	m.holds(first, stranger)
}

// A Delete looks first and deletes then. What comes between the two counts.
func TestDeleteOfWhatChangedHands(t *testing.T) {
	t.Parallel()
	m := newHost(t)
	old, next := web(2, 8080), web(3, 8080)
	m.add(old)
	inside(t, m.host, func(k *Kernel) error {
		generation, found, err := k.conn.Find(table(), old.elements())
		if err != nil {
			return err
		}
		m.delete(old)
		m.add(next)
		err = k.conn.Commit(generation, each(table().DeleteElements, found)...)
		if !errors.Is(err, unix.ERESTART) {
			err = fmt.Errorf("deleted by what was seen before a change: %w", err)
			return err
		}
		return nil
	})
	m.holds(next)
	m.delete(old)
	m.holds(next)
}

func TestDeleteAddresses(t *testing.T) {
	t.Parallel()
	m := newHost(t)
	one, two := web(2, 8080), web(3, 8081)
	one.Mappings = append(one.Mappings, Mapping{HostPort: 53, ContainerPort: 53, Protocol: UDP, HostIP: netip.MustParseAddr("192.0.2.1")})
	inside(t, m.host, func(k *Kernel) error { return k.DeleteAddresses(one.Addresses) }) // without a table
	m.add(one)
	m.add(two)
	for range 2 {
		inside(t, m.host, func(k *Kernel) error { return k.DeleteAddresses(one.Addresses) })
		m.holds(two)
	}
}

// The plugin mends a table that lacks a map, and keeps what is in the others.
func TestAddMendsTheTable(t *testing.T) {
	t.Parallel()
	m := newHost(t)
	one, two := web(2, 8080), web(3, 8081)
	one.Mappings[0].HostIP = netip.MustParseAddr("192.0.2.1")
	m.add(one)
	m.transact(table().FlushChain("prerouting"), table().FlushChain("output"), table().DeleteSet("ports4"))
	m.add(two)
	m.holds(one, two)
}

// each makes one operation of each element.
func each(do func(...nft.Element) nft.Op, elements []nft.Element) []nft.Op {
	var ops []nft.Op
	for _, e := range elements {
		ops = append(ops, do(e))
	}
	return ops
}

const parallel = 64

// Plugins work at the same time, on no table at first. Each has a socket of its
// own, which is all that processes would differ in for the kernel.
func TestParallel(t *testing.T) {
	t.Parallel()
	m := newHost(t)
	const rounds = 6
	var stay []Pod
	var all sync.WaitGroup
	for i := range parallel {
		keep, come := web(2*i, uint16(10000+i)), web(2*i+1, uint16(20000+i))
		come.Mappings = append(come.Mappings, Mapping{HostPort: uint16(20000 + i), ContainerPort: 53, Protocol: SCTP})
		stay = append(stay, keep)
		all.Go(func() {
			for r := range rounds {
				step := func(k *Kernel) error { return k.Add(come) }
				if r == rounds/2 {
					step = func(k *Kernel) error { return errors.Join(k.Add(keep), k.Add(come)) }
				}
				err := errors.Join(tryIn(m.host, step), tryIn(m.host, func(k *Kernel) error { return k.Delete(come) }))
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	m.holds(stay...)
}

// If several pods want one port, one gets it, and the errors of the others name it.
func TestParallelForOnePort(t *testing.T) {
	t.Parallel()
	m := newHost(t)
	for range 4 {
		var winner atomic.Pointer[Pod]
		var all sync.WaitGroup
		for i := range parallel {
			p := web(i, 8080)
			all.Go(func() {
				err := tryIn(m.host, func(k *Kernel) error { return k.Add(p) })
				switch {
				case err == nil && !winner.CompareAndSwap(nil, &p):
					t.Error("two have the port")
				case err != nil && !errors.Is(err, ErrTaken):
					t.Error(err)
				}
			})
		}
		all.Wait()
		if winner.Load() == nil {
			t.Fatal("nobody has the port")
		}
		m.holds(*winner.Load())
		m.delete(*winner.Load())
	}
}

// Two processes delete a pod, which happens when the runtime gives up on a DEL
// and tries again. Neither takes the port from the pod that has it next.
func TestParallelDeletersOfOnePod(t *testing.T) {
	t.Parallel()
	m := newHost(t)
	old, next := web(2, 8080), web(3, 8080)
	stop := make(chan struct{})
	var all sync.WaitGroup
	for _, step := range []func(*Kernel) error{
		func(k *Kernel) error { return errors.Join(tolerateTaken(k.Add(old)), k.Delete(old)) },
		func(k *Kernel) error { return k.Delete(old) },
	} {
		all.Go(func() {
			if err := tryIn(m.host, func(k *Kernel) error { return untilClosed(stop, func() error { return step(k) }) }); err != nil {
				t.Error(err)
			}
		})
	}
	err := tryIn(m.host, func(k *Kernel) error {
		for range 1000 {
			if err := keepsWhatItHas(k, next); err != nil {
				return err
			}
		}
		return nil
	})
	close(stop)
	all.Wait()
	must(t, err)
	m.holds()
}

func tolerateTaken(err error) error {
	if errors.Is(err, ErrTaken) {
		return nil
	}
	return err
}

func untilClosed(stop <-chan struct{}, step func() error) error {
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		if err := step(); err != nil {
			return err
		}
	}
}

// keepsWhatItHas adds a pod and, if it gets its port, looks a few times that it
// keeps it, and deletes it.
func keepsWhatItHas(k *Kernel, p Pod) error {
	err := k.Add(p)
	if err != nil {
		return tolerateTaken(err)
	}
	for range 5 {
		_, found, err := k.conn.Find(table(), p.elements())
		if err != nil {
			return err
		}
		if len(found) != len(p.elements()) {
			return fmt.Errorf("of the pod's elements are left %v", found)
		}
	}
	return k.Delete(p)
}

// A range of ports is an entry for each of them.
func TestManyPorts(t *testing.T) {
	t.Parallel()
	m := newHost(t)
	p, other := web(2, 0), web(3, 30000+2999)
	p.Mappings = nil
	for i := range 3000 {
		p.Mappings = append(p.Mappings, Mapping{HostPort: uint16(30000 + i), ContainerPort: uint16(1 + i), Protocol: TCP})
	}
	m.add(p)
	m.holds(p)
	again := p
	again.Addresses = other.Addresses
	if err := tryIn(m.host, func(k *Kernel) error { return k.Add(again) }); !errors.Is(err, ErrTaken) {
		t.Errorf("error %v, want %v", err, ErrTaken)
	}
	m.delete(p)
	m.holds()
}

// Capabilities are a thread's own; this one ends with the test's.
func TestWithoutCapabilities(t *testing.T) {
	t.Parallel()
	m := newHost(t)
	for name, do := range map[string]func(*Kernel) error{
		"add":  func(k *Kernel) error { return k.Add(web(2, 8080)) },
		"sync": func(k *Kernel) error { _, err := k.Sync(listOf(web(2, 8080))); return err },
	} {
		err := m.host.Do(func() error {
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var none [2]unix.CapUserData
			if err := unix.Capset(&header, &none[0]); err != nil {
				return err
			}
			k, err := Open()
			if err != nil {
				return err
			}
			defer k.Close()
			return do(k)
		})
		if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
			t.Errorf("%s: error %v, want one that asks for CAP_NET_ADMIN", name, err)
		}
	}
}
