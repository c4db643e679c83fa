package nft

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/internal/nl"
)

func TestSyncMakesAndRemoves(t *testing.T) {
	c := dial(t)
	if changes := sync(t, c, nil); len(changes) > 0 || read(t, c) != nil {
		t.Errorf("without a table: %q", changes)
	}
	for _, tc := range []struct {
		want *Table
		text string
	}{
		{full(), "table inet test: made with 9 elements (was missing)"},
		{nil, "table inet test: removed"},
	} {
		if changes := sync(t, c, tc.want); !slices.Equal(changes, []string{tc.text}) {
			t.Errorf("changes %q, want %q", changes, tc.text)
		}
		same(t, tc.want, read(t, c))
		if changes := sync(t, c, tc.want); len(changes) > 0 {
			t.Errorf("another Sync changed %q", changes)
		}
	}
}

// Sync turns any table in the kernel into any other.
func TestSyncReachesRandomTables(t *testing.T) {
	c := dial(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		want := random(r)
		sync(t, c, want)
		same(t, want, read(t, c))
	}
}

// Each way to damage a table is noticed, named, and undone by one Sync.
func TestSyncMends(t *testing.T) {
	id := testID()
	foreign := NewRule("foreign", Counter())
	element := func(i int) Element { return full().Elements[i] }
	for _, tc := range []struct {
		name   string
		damage []Op
		told   string
	}{
		{"table deleted", []Op{id.DeleteTable()}, "table inet test: made with 9 elements (was missing)"},
		{"table dormant", []Op{{id: id, typ: unix.NFT_MSG_NEWTABLE, attrs: id.in().Uint32BE(unix.NFTA_TABLE_FLAGS, unix.NFT_TABLE_F_DORMANT)}},
			"table inet test: replaced with 9 elements (its flags were altered)"},
		{"chain flushed", []Op{id.FlushChain("extra")}, "table inet test, chain extra: refilled (rule 1 was missing)"},
		{"chain deleted", []Op{id.FlushChain("prerouting"), id.DeleteChain("prerouting")}, "table inet test, chain prerouting: made (was missing)"},
		{"policy altered", []Op{id.MakeChain(Chain{Name: "output", Hook: Hook{"filter", unix.NF_INET_LOCAL_OUT, PriorityFilter, Drop}})},
			"table inet test, chain output: refilled (its policy was altered)"},
		{"hook altered", []Op{id.FlushChain("output"), id.DeleteChain("output"), id.MakeChain(Chain{Name: "output", Hook: Hook{"filter", unix.NF_INET_LOCAL_OUT, 9, Accept}})},
			"table inet test, chain output: replaced (its hook was altered)"},
		{"rule added", []Op{id.AddRule("output", foreign)}, "table inet test, chain output: refilled (rule 3 does not belong there)"},
		{"comment altered", []Op{id.FlushChain("extra"), id.AddRule("extra", Rule{Comment: "foreign", Exprs: full().Chains[3].Rules[0].Exprs})},
			"table inet test, chain extra: refilled (rule 1 was altered)"},
		{"unknown instruction", []Op{id.AddRule("extra", Rule{Exprs: []Expr{{"log", nl.Attrs{}.Text(unix.NFTA_LOG_PREFIX, "x")}}})},
			"table inet test, chain extra: refilled (rule 2 does not belong there)"},
		{"foreign chains", []Op{id.MakeChain(Chain{Name: "foreign"}), id.MakeChain(Chain{Name: "target"}), id.AddRule("foreign", NewRule("", Jump("target").Exprs()))},
			"table inet test, chain foreign: removed (does not belong there)"},
		{"foreign set in a foreign chain", []Op{id.MakeSet(NewIntervals("foreign", Addr(family.IPv4)), 1), id.MakeChain(Chain{Name: "foreign"}),
			id.AddRule("foreign", NewRule("", Source(family.IPv4, 4).In("foreign")))}, "table inet test, set foreign: removed (does not belong there)"},
		{"anonymous set", []Op{id.anonymousSet(7), id.AddRule("extra", Rule{Exprs: append(Source(family.IPv4, 4).loads(),
			Expr{"lookup", lookup("__set%d").Uint32BE(unix.NFTA_LOOKUP_SET_ID, 7)})})}, "table inet test, chain extra: refilled (rule 2 does not belong there)"},
		{"set altered", []Op{id.FlushChain("output"), id.FlushChain("extra"), id.DeleteSet("bridges"), id.MakeSet(NewSet("bridges", Concat(Addr(family.IPv6))), 1)},
			"table inet test, set bridges: replaced (was altered)"},
		{"set with timeout", []Op{id.FlushChain("postrouting"), id.DeleteSet("own4"), id.timeoutSet()}, "table inet test, set own4: replaced (was altered)"},
		{"element deleted", []Op{id.DeleteElements(element(7))}, "table inet test, map ports4: added tcp . 80 : 10.244.1.2 . 81"},
		{"element altered", []Op{id.DeleteElements(element(7)), id.AddElements(Element{Set: "ports4", Key: element(7).Key, Data: Fields([]byte{10, 9, 9, 9}, []byte{0, 1})})},
			"table inet test, map ports4: removed tcp . 80 : 10.9.9.9 . 1"},
		{"element added", []Op{id.AddElements(Element{Set: "bridges", Key: string(PadName("eth0"))})}, "table inet test, set bridges: removed eth0"},
		{"element for all keys", []Op{id.AddElements(Element{Set: "ports4", Data: element(7).Data})}, "table inet test, map ports4: removed * : 10.244.1.2 . 81"},
		{"range deleted", []Op{id.DeleteElements(element(5))}, "table inet test, set own6: added fd00::-fd00::ffff"},
		{"range added", []Op{id.AddElements(rangeOf("own4", "172.16.0.0", "172.16.0.255"))}, "table inet test, set own4: removed 172.16.0.0-172.16.0.255"},
		{"open range", []Op{id.AddElements(Element{Set: "own4", Key: "\x0b\x00\x00\x00"})}, "table inet test, set own4: emptied (it had incomplete ranges)"},
		{"stray end", []Op{id.strayEnd()}, "table inet test, set own6: emptied (it had incomplete ranges)"},
		{"set flushed", []Op{id.FlushSet("own4")}, "table inet test, set own4: added 0.0.0.0-1.255.255.255, 10.244.0.0-10.244.3.255, 10.244.9.0, 224.0.0.0-255.255.255.255"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := dial(t)
			sync(t, c, full())
			must(t, c.Commit(AnyGeneration, tc.damage...))
			changes := sync(t, c, full())
			if len(changes) == 0 || !strings.HasPrefix(changes[0], tc.told) && !slices.Contains(changes, tc.told) {
				t.Errorf("changes %q, want %q", changes, tc.told)
			}
			same(t, full(), read(t, c))
			if changes := sync(t, c, full()); len(changes) > 0 {
				t.Errorf("another Sync changed %q", changes)
			}
		})
	}
}

func (id ID) anonymousSet(number uint32) Op {
	return id.MakeSet(Set{Name: "__set%d", Key: Addr(family.IPv4), Flags: unix.NFT_SET_ANONYMOUS | unix.NFT_SET_CONSTANT}, number)
}

func (id ID) timeoutSet() Op {
	s := NewIntervals("own4", Addr(family.IPv4))
	s.Flags |= unix.NFT_SET_TIMEOUT
	return id.MakeSet(s, 1)
}

func (id ID) strayEnd() Op {
	end := boundary{key: "\x09" + strings.Repeat("\x00", 15), end: true}
	return Op{id: id, typ: unix.NFT_MSG_NEWSETELEM, flags: unix.NLM_F_CREATE,
		attrs: id.inSet("own6").Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, nl.Attrs{}.Nest(unix.NFTA_LIST_ELEM, end.attrs(true)))}
}

// What another program does between the read and the transaction is not
// overwritten: Sync reads again.
func TestSyncReadsAgain(t *testing.T) {
	c := dial(t)
	calls := 0
	_, err := c.Sync(testID(), func(*Table) (*Table, error) {
		calls++
		if calls == 1 {
			return full(), c.Commit(AnyGeneration, testID().MakeTable(0), testID().MakeChain(Chain{Name: "foreign"}))
		}
		return full(), nil
	})
	must(t, err)
	if calls != 2 {
		t.Errorf("decided %d times, want 2", calls)
	}
	same(t, full(), read(t, c))
}

// A Keeper reads the table only if somebody changed rules, or if the wanted
// table changed.
func TestKeeper(t *testing.T) {
	c := dial(t)
	k := NewKeeper(c, testID())
	keep := func(want *Table, changes int) {
		t.Helper()
		got, err := k.Sync(want)
		must(t, err)
		if len(got) != changes {
			t.Errorf("changes %q, want %d", Texts(got), changes)
		}
		same(t, want, read(t, c))
	}
	keep(full(), 1)
	synced := k.synced
	keep(full(), 0)
	if k.synced != synced {
		t.Error("the table was read again although nothing changed")
	}
	must(t, c.Commit(AnyGeneration, testID().FlushChain("extra")))
	keep(full(), 1)
	less := full()
	less.Elements = less.Elements[1:]
	keep(less, 1)
	keep(nil, 1)
	keep(nil, 0)
}

// An error names the operation, and tells a kernel that lacks something from a
// table that is gone.
func TestRefusals(t *testing.T) {
	c := dial(t)
	id := testID()
	for _, tc := range []struct {
		name        string
		generation  uint32
		op          Op
		is          error
		unsupported bool
		text        string
	}{
		{"no table", AnyGeneration, id.AddElements(full().Elements[0]), unix.ENOENT, false,
			"change table inet test: add elements to set bridges: no such file or directory"},
		{"no type of chain", AnyGeneration, id.MakeChain(Chain{Name: "x", Hook: Hook{"strange", 1, 0, Accept}}), unix.ENOENT, true,
			"change table inet test: " + ErrUnsupported.Error()},
		{"another generation", 77777, id.MakeTable(0), unix.ERESTART, false, "change table inet test: interrupted system call should be restarted"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ops := []Op{tc.op}
			if tc.unsupported {
				ops = []Op{id.MakeTable(0), tc.op}
			}
			err := c.Commit(tc.generation, ops...)
			if !errors.Is(err, tc.is) || errors.Is(err, ErrUnsupported) != tc.unsupported || !strings.HasPrefix(err.Error(), tc.text) {
				t.Errorf("error %v, want %s", err, tc.text)
			}
		})
	}
	if read(t, c) != nil {
		t.Error("a refused transaction left a table")
	}
}

// Rules of other programs' chains are read with their handles, and rules can be
// put between them.
func TestForeignChain(t *testing.T) {
	c := dial(t)
	id := ID{Family(family.IPv4), "filter"}
	hook := Hook{"filter", unix.NF_INET_FORWARD, PriorityFilter, Drop}
	must(t, c.Commit(AnyGeneration, id.MakeTable(0), id.MakeChain(Chain{Name: "FORWARD", Hook: hook}), id.MakeChain(Chain{Name: "OURS"}),
		id.AddRule("FORWARD", NewRule("first", Accept.Exprs())), id.AddRule("FORWARD", NewRule("last", Drop.Exprs()))))
	names := func() (names []string, ch *Chain) {
		ch, err := c.ReadChain(id, "FORWARD")
		must(t, err)
		for _, r := range ch.Rules {
			names = append(names, r.Comment)
		}
		return names, ch
	}
	_, ch := names()
	if ch.Hook != hook {
		t.Errorf("hook %v, want %v", ch.Hook, hook)
	}
	must(t, c.Commit(AnyGeneration, id.InsertRule("FORWARD", ch.Rules[1].Handle, NewRule("middle", Counter(), Jump("OURS").Exprs()))))
	got, ch := names()
	if !slices.Equal(got, []string{"first", "middle", "last"}) {
		t.Errorf("rules %q", got)
	}
	if v, ok := ch.Rules[1].Exprs[1].Verdict(); !ok || v != Jump("OURS") {
		t.Errorf("verdict %v %t", v, ok)
	}
	must(t, c.Commit(AnyGeneration, id.DeleteRule("FORWARD", ch.Rules[0].Handle)))
	if got, _ := names(); !slices.Equal(got, []string{"middle", "last"}) {
		t.Errorf("rules %q", got)
	}
	if ch, err := c.ReadChain(id, "NONE"); ch != nil || err != nil {
		t.Errorf("a chain that isn't there: %v, %v", ch, err)
	}
}

// Large tables take more than one message for each set.
func TestManyElements(t *testing.T) {
	c := dial(t)
	want := full()
	for i := range 5000 {
		first := []byte{11, byte(i >> 7), byte(i << 1), 0}
		last := []byte{11, byte(i >> 7), byte(i << 1), 255}
		want.Elements = append(want.Elements, Element{Set: "own4", Key: string(first), Last: string(last)},
			Element{Set: "ports4", Key: Fields([]byte{132}, []byte{byte(i >> 8), byte(i)}), Data: Fields(first, []byte{0, 1})})
	}
	sync(t, c, full())
	changes := sync(t, c, want)
	if !slices.Equal(changes, []string{"table inet test, set own4: added 5000 elements", "table inet test, map ports4: added 5000 elements"}) {
		t.Errorf("changes %q", changes)
	}
	same(t, want, read(t, c))
	sync(t, c, full())
	same(t, full(), read(t, c))
}

func TestFind(t *testing.T) {
	c := dial(t)
	sync(t, c, full())
	port, other := full().Elements[7], full().Elements[7]
	other.Key = Fields([]byte{unix.IPPROTO_TCP}, []byte{0, 81})
	_, generation, err := c.Read(testID())
	must(t, err)
	g, found, err := c.Find(testID(), []Element{other, {Set: port.Set, Key: port.Key}})
	must(t, err)
	if g != generation || !slices.Equal(found, []Element{port}) {
		t.Errorf("found %v in generation %d, want %v in %d", found, g, port, generation)
	}
}

// A change while the table is read does not show as a mixture of old and new.
// The sets are read one after the other, so without the generation it would.
func TestReadIsConsistent(t *testing.T) {
	ns := sandboxtest.NewNetns(t)
	var reader, writer *Conn
	sandboxtest.Do(t, ns, func() (err error) {
		if reader, err = Dial(); err != nil {
			return err
		}
		writer, err = Dial()
		return err
	})
	defer reader.Close()
	defer writer.Close()
	sync(t, writer, full())
	pair := full().Elements[6:8] // of two sets
	stop, stopped := make(chan struct{}), make(chan error)
	go func() {
		for {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			err := errors.Join(
				writer.Commit(AnyGeneration, testID().DeleteElements(pair[0]), testID().DeleteElements(pair[1])),
				writer.Commit(AnyGeneration, testID().AddElements(pair[0]), testID().AddElements(pair[1])))
			if err != nil {
				stopped <- err
				return
			}
		}
	}()
	for range 300 {
		have, _, err := reader.Read(testID())
		if errors.Is(err, ErrUnstable) {
			continue
		}
		must(t, err)
		if slices.Contains(have.Elements, pair[0]) != slices.Contains(have.Elements, pair[1]) {
			t.Errorf("a read gave one of two elements that change together")
		}
	}
	close(stop)
	must(t, <-stopped)
}
