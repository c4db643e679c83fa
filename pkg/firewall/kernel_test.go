package firewall_test

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/pkg/firewall"
)

func sync(t testing.TB, want firewall.State) []string {
	t.Helper()
	changes, err := firewall.New().Sync(want)
	if err != nil {
		t.Fatalf("sync: %v", err)
	}
	return changes
}

// settled checks that the kernel has what is wanted, and that a further sync
// finds nothing to do.
func settled(t testing.TB, want firewall.State) {
	t.Helper()
	got, err := firewall.New().Read()
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	if diff := sameState(want, got); diff != "" {
		t.Fatalf("the kernel has another table, -want +got:\n%s", diff)
	}
	if changes := sync(t, want); len(changes) != 0 {
		t.Fatalf("another sync changed %q", changes)
	}
}

func TestSync(t *testing.T) {
	for _, tc := range []struct {
		name   string
		config func(*firewall.Config)
	}{
		{"dual stack", func(*firewall.Config) {}},
		{"only IPv4", func(c *firewall.Config) { c.Own, c.Network = c.Own[:1], c.Network[:3] }},
		{"only IPv6", func(c *firewall.Config) { c.Own, c.Network = c.Own[1:], c.Network[3:] }},
		{"masquerade off", func(c *firewall.Config) { c.Masquerade = false }},
		{"no masquerading to anywhere", func(c *firewall.Config) { c.NoMasqueradeTo = prefixes("0.0.0.0/0", "::/0") }},
		{"highest addresses", func(c *firewall.Config) { c.NoMasqueradeTo = prefixes("255.255.255.255/32") }},
		{"longest bridge name", func(c *firewall.Config) { c.Bridge = "fifteen-letters" }},
		{"no subnets yet", func(c *firewall.Config) { c.Own, c.Network = nil, nil }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sandboxtest.Enter(t)
			c := testConfig()
			tc.config(&c)
			want := desired(t, c)
			if changes := sync(t, want); len(changes) != 1 {
				t.Errorf("the first sync changed %q, want one rebuild", changes)
			}
			settled(t, want)
		})
	}
}

// Each way to damage the table is undone by one sync, and told by it.
func TestSyncMends(t *testing.T) {
	const rebuilt, changed = "table inet overlay-cni rebuilt", "set "
	for _, tc := range []struct {
		name   string
		damage func(*damager, *testing.T)
		told   string
	}{
		{"table deleted", (*damager).deleteTable, rebuilt + ": it was missing"},
		{"table put to sleep", (*damager).putToSleep, rebuilt + ": flags"},
		{"rule deleted", (*damager).deleteRule, rebuilt + ": chain postrouting has 1 rules"},
		{"rule altered", (*damager).alterRule, rebuilt + ": chain postrouting has another rule 1"},
		{"rule's comment altered", (*damager).alterComment, rebuilt + ": chain postrouting has another rule 1"},
		{"foreign rule added", (*damager).addRule, rebuilt + ": chain postrouting has 3 rules"},
		{"rules in another order", (*damager).reorderRules, rebuilt + ": chain postrouting has another rule 1"},
		{"chain flushed", (*damager).flushChain, rebuilt + ": chain postrouting has 0 rules"},
		{"chain deleted", (*damager).deleteChain, rebuilt + ": chain output was missing"},
		{"chain of another policy", (*damager).alterPolicy, rebuilt + ": chain output has hook"},
		{"chain of another priority", (*damager).alterPriority, rebuilt + ": chain output has hook"},
		{"foreign chain added", (*damager).addChain, rebuilt + ": chain foreign does not belong"},
		{"foreign map added", (*damager).addMap, rebuilt + ": set foreign does not belong"},
		{"set of another kind", (*damager).alterSet, rebuilt + ": set own4 has type"},
		{"element removed", (*damager).deleteElement, changed + "own4: added 10.244.1.0-10.244.1.255"},
		{"IPv6 element removed", (*damager).deleteElement6, changed + "own6: added fd00:1::"},
		{"set flushed", (*damager).flushSet, changed + "network4: added"},
		{"foreign element added", (*damager).addElement, changed + "own4: removed 172.16.0.0-172.16.0.255"},
		{"adjacent foreign elements added", (*damager).addAdjacent,
			changed + "own4: removed 172.16.0.0-172.16.0.255 172.16.1.0-172.16.1.255"},
		{"range without an end added", (*damager).addOpenRange, changed + "own4: removed 172.16.0.0-255.255.255.255"},
		{"stray end added", (*damager).addStrayEnd, changed + "own4: refilled"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sandboxtest.Enter(t)
			want := desired(t, testConfig())
			sync(t, want)
			tc.damage(newDamager(t), t)
			changes := sync(t, want)
			if len(changes) != 1 || !strings.HasPrefix(changes[0], tc.told) {
				t.Errorf("sync changed %q, want one change that begins with %q", changes, tc.told)
			}
			settled(t, want)
		})
	}
}

// nft adds such an element by itself to a set that was empty.
func TestSyncIgnoresAnEndAtTheLowestAddress(t *testing.T) {
	sandboxtest.Enter(t)
	want := desired(t, testConfig())
	sync(t, want)
	d := newDamager(t)
	d.addOwn(t, nftables.SetElement{Key: []byte{0, 0, 0, 0}, IntervalEnd: true})
	settled(t, want)
}

func TestSyncTurnsMasqueradingOff(t *testing.T) {
	sandboxtest.Enter(t)
	c := testConfig()
	sync(t, desired(t, c))
	c.Masquerade = false
	want := desired(t, c)
	sync(t, want)
	settled(t, want)
}

func TestChangedPeersTouchOnlyElements(t *testing.T) {
	sandboxtest.Enter(t)
	c := testConfig()
	sync(t, desired(t, c))
	before := handles(t)
	c.Network = prefixes("10.244.1.0/24", "10.244.3.0/24", "10.244.9.0/24", "fd00:1::/64", "fd00:7::/64")
	want := desired(t, c)
	changes := sync(t, want)
	wantChanges := []string{
		"set network4: added 10.244.1.0-10.244.1.255 10.244.3.0-10.244.3.255, removed 10.244.1.0-10.244.2.255",
		"set network6: added fd00:7::-fd00:7::ffff:ffff:ffff:ffff, removed fd00:9::-fd00:9::ffff:ffff:ffff:ffff",
	}
	if !slices.Equal(changes, wantChanges) {
		t.Errorf("changes %q, want %q", changes, wantChanges)
	}
	if after := handles(t); !slices.Equal(before, after) || len(before) != 4 {
		t.Errorf("rules had handles %v and now have %v: they were made anew", before, after)
	}
	settled(t, want)
}

func TestDelete(t *testing.T) {
	sandboxtest.Enter(t)
	k := firewall.New()
	sync(t, desired(t, testConfig()))
	for _, when := range []string{"present", "absent"} {
		if _, err := k.Sync(firewall.State{}); err != nil {
			t.Fatalf("delete while %s: %v", when, err)
		}
		settled(t, firewall.State{})
	}
	// The operation itself does not depend on what was read before.
	if err := k.Apply([]firewall.Op{firewall.Remove{}}); err != nil {
		t.Fatalf("apply while absent: %v", err)
	}
}

// A table of the same name in another family is another table.
func TestOtherTablesStayUntouched(t *testing.T) {
	sandboxtest.Enter(t)
	d := newDamager(t)
	for _, table := range []*nftables.Table{
		{Name: "theirs", Family: nftables.TableFamilyINet},
		{Name: firewall.TableName, Family: nftables.TableFamilyIPv4},
	} {
		d.conn.AddTable(table)
		chain := d.conn.AddChain(&nftables.Chain{Table: table, Name: "postrouting"})
		d.conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Counter{}}})
	}
	d.flush(t)
	before := otherRules(t)
	sync(t, desired(t, testConfig()))
	settled(t, desired(t, testConfig()))
	if _, err := firewall.New().Sync(firewall.State{}); err != nil {
		t.Fatal(err)
	}
	if after := otherRules(t); !slices.Equal(before, after) || len(before) != 2 {
		t.Errorf("other tables had rules %v and now have %v", before, after)
	}
}

// A transaction that the kernel refuses in its last message changes nothing.
func TestAFailedTransactionChangesNothing(t *testing.T) {
	sandboxtest.Enter(t)
	want := desired(t, testConfig())
	sync(t, want)
	err := firewall.New().Apply([]firewall.Op{
		firewall.Refill{Set: "own4"},
		firewall.Change{Set: "missing", Add: firewall.Merge(prefixes("10.0.0.0/8"))},
	})
	if err == nil || !strings.Contains(err.Error(), "change table inet overlay-cni") {
		t.Errorf("error %v, want one that says what was tried", err)
	}
	settled(t, want)
}

// What the kernel refuses, it refuses by a number that means something, also
// where it could say in words what it didn't like. A rule that refers to what
// isn't there is refused as one that needs a missing module is.
func TestRefusalsKeepTheirNumber(t *testing.T) {
	sandboxtest.Enter(t)
	want := desired(t, testConfig())
	want.Chains[0].Rules = append(want.Chains[0].Rules, firewall.Rule{Steps: []firewall.Step{{Verb: firewall.In, Arg: "missing"}}})
	err := firewall.New().Apply([]firewall.Op{firewall.Rebuild{Table: want}})
	if !errors.Is(err, unix.ENOENT) || !errors.Is(err, firewall.ErrUnsupported) {
		t.Errorf("error %v, want one that is ENOENT and ErrUnsupported", err)
	}
}

// Capabilities are a thread's own; this one ends with the test.
func TestWithoutCapabilities(t *testing.T) {
	sandboxtest.Enter(t)
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		t.Fatal(err)
	}
	_, err := firewall.New().Sync(desired(t, testConfig()))
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		t.Errorf("error %v, want one that asks for CAP_NET_ADMIN", err)
	}
}

// A change while the table is read does not show as a mixture of old and new.
// The sets are read one after the other, so without a check it would.
func TestReadIsConsistent(t *testing.T) {
	fd := sandboxtest.NewNetns(t).FD()
	c := testConfig()
	states := [2]firewall.State{desired(t, c)}
	c.Network = prefixes("10.244.7.0/24", "fd00:7::/64")
	states[1] = desired(t, c)
	writer := firewall.New(firewall.InNetns(fd))
	sandboxtest.Enter(t) // the reader is elsewhere too
	reader := firewall.New(firewall.InNetns(fd))
	const rounds = 100
	for i := range rounds {
		done := make(chan error, 1)
		go func() {
			_, err := writer.Sync(states[i%2])
			done <- err
		}()
		for _, s := range readUntil(t, reader, done) {
			if s.Present && sameState(states[0], s) != "" && sameState(states[1], s) != "" {
				t.Fatalf("round %d: a read gave neither of the two states:\n%s", i, show(s))
			}
		}
	}
}

// readUntil reads again and again until the writer is done.
func readUntil(t *testing.T, k *firewall.Kernel, done <-chan error) []firewall.State {
	t.Helper()
	var seen []firewall.State
	for {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			return seen
		default:
		}
		s, err := k.Read()
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, s)
	}
}

func TestInNetns(t *testing.T) {
	fd := sandboxtest.NewNetns(t).FD()
	sandboxtest.Enter(t)
	k, want := firewall.New(firewall.InNetns(fd)), desired(t, testConfig())
	if _, err := k.Sync(want); err != nil {
		t.Fatal(err)
	}
	settled(t, firewall.State{}) // the thread's own namespace
	if got, err := k.Read(); err != nil || sameState(want, got) != "" {
		t.Errorf("error %v, -want +got:\n%s", err, sameState(want, got))
	}
}

// The largest network that is planned for, and none of its subnets adjacent.
func TestManyPeers(t *testing.T) {
	const peers = 20000
	sandboxtest.Enter(t)
	c := testConfig()
	c.Network = c.Network[:0]
	for i := range uint32(peers) {
		c.Network = append(c.Network, netip.PrefixFrom(v4(10<<24+i<<9), 24), netip.PrefixFrom(v6(i<<1), 64))
	}
	want := desired(t, c)
	if n := len(want.Elements["network4"].Ranges); n < peers {
		t.Fatalf("the test makes %d ranges, want %d or more", n, peers)
	}
	sync(t, want)
	settled(t, want)
	before := handles(t)
	c.Network = c.Network[:len(c.Network)-2]
	want = desired(t, c)
	if changes := sync(t, want); len(changes) != 2 {
		t.Errorf("one peer less changed %d sets, want 2: %q", len(changes), changes)
	}
	settled(t, want)
	c.Network = nil
	want = desired(t, c)
	sync(t, want)
	settled(t, want)
	if after := handles(t); !slices.Equal(before, after) {
		t.Errorf("rules were made anew")
	}
}

// Whatever one configuration follows on another, the kernel has it afterwards.
func TestSyncReachesRandomStates(t *testing.T) {
	sandboxtest.Enter(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 100 {
		c := firewall.Config{
			Own: randomSubnets(r), Network: randomSubnets(r), NoMasqueradeTo: randomPrefixes(r),
			Masquerade: r.IntN(10) > 0, Bridge: []string{"cni0", "cni1"}[r.IntN(8)/7],
		}
		want := desired(t, c)
		sync(t, want)
		settled(t, want)
	}
}

// randomSubnets are pod subnets close to each other, so that they often touch.
func randomSubnets(r *rand.Rand) []netip.Prefix {
	var ps []netip.Prefix
	for range r.IntN(12) {
		ps = append(ps,
			netip.PrefixFrom(v4(10<<24+r.Uint32N(64)<<5), 24+r.IntN(4)).Masked(),
			netip.PrefixFrom(v6(r.Uint32N(32)), 61+r.IntN(4)).Masked())
	}
	return ps
}

// randomPrefixes are of any length, with the edges of the address space.
func randomPrefixes(r *rand.Rand) []netip.Prefix {
	ps := prefixes("0.0.0.0/32", "255.255.255.255/32", "::/128", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128")
	for range r.IntN(12) {
		ps = append(ps, netip.PrefixFrom(v4(r.Uint32()), r.IntN(33)).Masked(),
			netip.PrefixFrom(v6(r.Uint32()), r.IntN(129)).Masked())
	}
	r.Shuffle(len(ps), func(i, j int) { ps[i], ps[j] = ps[j], ps[i] })
	return ps[:r.IntN(len(ps))]
}

func v4(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}

// v6 is the first address of the n-th /64 of fd00::/32.
func v6(n uint32) netip.Addr {
	return netip.AddrFrom16([16]byte(append(binary.BigEndian.AppendUint32([]byte{0xfd, 0, 0, 0}, n), make([]byte, 8)...)))
}

// handles lists the kernel's numbers of the table's rules: made anew, they get
// new ones.
func handles(t *testing.T) []uint64 {
	t.Helper()
	d := newDamager(t)
	var hs []uint64
	for _, chain := range []string{"output", "postrouting"} {
		for _, r := range d.rules(t, chain) {
			hs = append(hs, r.Handle)
		}
	}
	return hs
}

func otherRules(t *testing.T) []uint64 {
	t.Helper()
	conn := newDamager(t).conn
	chains, err := conn.ListChains()
	if err != nil {
		t.Fatal(err)
	}
	var hs []uint64
	for _, c := range chains {
		if c.Table.Name == firewall.TableName && c.Table.Family == nftables.TableFamilyINet {
			continue
		}
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rules {
			hs = append(hs, r.Handle)
		}
	}
	return hs
}
