package firewall_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/internal/network"
	"github.com/overlay-cni/overlay-cni/internal/nft"
	"github.com/overlay-cni/overlay-cni/pkg/firewall"
)

func TestMain(m *testing.M) { os.Exit(sandboxtest.Main(m)) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// host is a network namespace whose firewall is kept.
type host struct {
	sandboxtest.Space
	kernel *firewall.Kernel
}

func newHost(t testing.TB) host {
	t.Helper()
	k := firewall.New(network.Default)
	t.Cleanup(k.Close)
	return host{sandboxtest.NewSpace(t), k}
}

func (h host) sync(want *nft.Table) []string {
	h.T.Helper()
	var changes []string
	h.In(func() (err error) {
		changes, err = h.kernel.Sync(want)
		return err
	})
	return changes
}

// settle syncs, and wants a Kernel that remembers nothing to find nothing to do.
func (h host) settle(want *nft.Table) []string {
	h.T.Helper()
	changes := h.sync(want)
	again := h
	again.kernel = firewall.New(network.Default)
	defer again.kernel.Close()
	if more := again.sync(want); len(more) > 0 {
		h.T.Errorf("another sync changed %q", more)
	}
	return changes
}

// nft runs the program of that name.
func (h host) nft(args ...string) string {
	h.T.Helper()
	var out bytes.Buffer
	cmd := exec.Command("nft", args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	must(h.T, h.NS.Start(cmd))
	if err := cmd.Wait(); err != nil {
		h.T.Fatalf("nft %s: %v: %s", strings.Join(args, " "), err, out.String())
	}
	return out.String()
}

// The whole table, as nft lists it.
const listing = `table inet overlay-cni {
	chain output {
		type filter hook output priority filter; policy accept;
		icmp type redirect oifname "cni0" drop comment "pods reach each other only through the host"
		icmpv6 type nd-redirect oifname "cni0" drop comment "pods reach each other only through the host"
	}

	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr @own4 ip daddr != @network4 ip daddr != @exempt4 oifname != "cni0" masquerade fully-random comment "what leaves the pod network gets the address of the host"
		ip6 saddr @own6 ip6 daddr != @network6 ip6 daddr != @exempt6 oifname != "cni0" masquerade fully-random comment "what leaves the pod network gets the address of the host"
	}
}
`

// sets are the definitions in a listing of the table.
var sets = regexp.MustCompile(`(?s)\tset .*?\n\t}\n\n`)

func TestTheTableIsWhatNftLists(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.settle(desired(t, testConfig()))
	got := sets.ReplaceAllString(h.nft("list", "table", "inet", "overlay-cni"), "")
	if diff := cmp.Diff(listing, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestSync(t *testing.T) {
	t.Parallel()
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
			t.Parallel()
			h, c := newHost(t), testConfig()
			tc.config(&c)
			if changes := h.settle(desired(t, c)); len(changes) != 1 {
				t.Errorf("the first sync changed %q, want one new table", changes)
			}
			h.settle(desired(t, testConfig()))
			h.settle(desired(t, c))
		})
	}
}

// Each way to damage the table is undone by one sync, and told by it.
func TestSyncMends(t *testing.T) {
	t.Parallel()
	const table = "table inet overlay-cni"
	for damage, told := range map[string]string{
		"delete " + table: ": made with 10 elements (was missing)",
		"flush " + table:  ", chain output: refilled (rule 1 was missing)",
		"add rule inet overlay-cni postrouting counter":                              ", chain postrouting: refilled (rule 3 does not belong there)",
		"insert rule inet overlay-cni output accept":                                 ", chain output: refilled (rule 1 was altered)",
		"add chain inet overlay-cni output { policy drop; }":                         ", chain output: refilled (its policy was altered)",
		"add chain inet overlay-cni stranger { type filter hook input priority 0; }": ", chain stranger: removed (does not belong there)",
		"add map inet overlay-cni stranger { type inet_service : verdict; }":         ", map stranger: removed (does not belong there)",
		"delete element inet overlay-cni own4 { 10.244.1.0-10.244.1.255 }":           ", set own4: added 10.244.1.0-10.244.1.255",
		"flush set inet overlay-cni network4":                                        ", set network4: added 10.244.1.0-10.244.2.255, 10.244.9.0-10.244.9.255",
		"add element inet overlay-cni own4 { 172.16.0.0/24 }":                        ", set own4: removed 172.16.0.0-172.16.0.255",
	} {
		t.Run(damage, func(t *testing.T) {
			t.Parallel()
			h, want := newHost(t), desired(t, testConfig())
			h.settle(want)
			h.nft(damage)
			if changes := h.settle(want); len(changes) == 0 || changes[0] != table+told {
				t.Errorf("sync changed %q, want first %q", changes, table+told)
			}
		})
	}
}

func TestChangedPeersTouchOnlyElements(t *testing.T) {
	t.Parallel()
	h, c := newHost(t), testConfig()
	h.settle(desired(t, c))
	before := h.rules()
	c.Network = prefixes("10.244.1.0/24", "10.244.3.0/24", "10.244.9.0/24", "fd00:1::/64", "fd00:7::/64")
	changes := h.settle(desired(t, c))
	want := []string{
		"table inet overlay-cni, set network4: removed 10.244.1.0-10.244.2.255",
		"table inet overlay-cni, set network4: added 10.244.1.0-10.244.1.255, 10.244.3.0-10.244.3.255",
		"table inet overlay-cni, set network6: removed fd00:9::-fd00:9::ffff:ffff:ffff:ffff",
		"table inet overlay-cni, set network6: added fd00:7::-fd00:7::ffff:ffff:ffff:ffff",
	}
	if diff := cmp.Diff(want, changes); diff != "" {
		t.Errorf("changes, -want +got:\n%s", diff)
	}
	if diff := cmp.Diff(before, h.rules()); diff != "" {
		t.Errorf("rules were made anew:\n%s", diff)
	}
}

// rules lists the chains with the kernel's numbers of their rules: made anew,
// rules get new numbers.
func (h host) rules() string {
	h.T.Helper()
	return h.nft("-a", "list", "chain", "inet", "overlay-cni", "output") + h.nft("-a", "list", "chain", "inet", "overlay-cni", "postrouting")
}

func TestRemove(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.settle(desired(t, testConfig()))
	for _, want := range []int{1, 0} {
		h.In(func() error {
			changes, err := h.kernel.Remove()
			if len(changes) != want {
				t.Errorf("removed %q, want %d changes", changes, want)
			}
			return err
		})
	}
	if got := h.nft("list", "ruleset"); got != "" {
		t.Errorf("left is:\n%s", got)
	}
}

// A table of the same name in another family is another table, and so is another
// network's.
func TestOtherTablesStayUntouched(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for _, name := range []string{"inet theirs", "ip overlay-cni", "inet overlay-cni-blue"} {
		h.nft("add table " + name + "; add chain " + name + " postrouting; add rule " + name + " postrouting counter")
	}
	before := h.nft("-a", "list", "ruleset")
	h.settle(desired(t, testConfig()))
	h.settle(nil)
	if diff := cmp.Diff(before, h.nft("-a", "list", "ruleset")); diff != "" {
		t.Error(diff)
	}
}

// Capabilities are a thread's own; this one ends with the test.
func TestWithoutCapabilities(t *testing.T) {
	t.Parallel()
	done := make(chan error)
	go func() {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Capset(&header, &none[0])
		}
		if err == nil {
			_, err = firewall.New(network.Default).Sync(desired(t, testConfig()))
		}
		done <- err
	}()
	if err := <-done; !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		t.Errorf("error %v, want one that asks for CAP_NET_ADMIN", err)
	}
}

// The largest network that is planned for, and none of its subnets adjacent.
func TestManyPeers(t *testing.T) {
	t.Parallel()
	const peers = 20000
	h, c := newHost(t), testConfig()
	c.Network = c.Network[:0]
	for i := range uint32(peers) {
		c.Network = append(c.Network, netip.PrefixFrom(v4(10<<24+i<<9), 24), netip.PrefixFrom(v6(i<<1), 64))
	}
	want := desired(t, c)
	if n := len(want.Elements); n < 2*peers {
		t.Fatalf("the test makes %d ranges, want %d or more", n, 2*peers)
	}
	h.settle(want)
	before := h.rules()
	c.Network = c.Network[:len(c.Network)-2]
	if changes := h.settle(desired(t, c)); len(changes) != 2 {
		t.Errorf("one peer less made %d changes, want 2: %q", len(changes), changes)
	}
	c.Network = nil
	h.settle(desired(t, c))
	if diff := cmp.Diff(before, h.rules()); diff != "" {
		t.Errorf("rules were made anew:\n%s", diff)
	}
}

// Whatever one configuration follows on another, the kernel has it afterwards.
func TestSyncReachesRandomStates(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 100 {
		h.settle(desired(t, firewall.Config{
			Own: randomSubnets(r), Network: randomSubnets(r), NoMasqueradeTo: randomPrefixes(r),
			Masquerade: r.IntN(10) > 0, Bridge: []string{"cni0", "cni1"}[r.IntN(8)/7],
		}))
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
