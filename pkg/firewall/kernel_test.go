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

	chain tunnel-arriving {
		@th,96,24 != 0x1 accept comment "another VXLAN"
		iifname "cni0" drop comment "pods send no packets of the tunnel"
		iifname "overlay0" drop comment "pods send no packets of the tunnel"
		ip saddr != @peers4 drop comment "the tunnel's packets come from other hosts of the registry"
		ip6 saddr != @peers6 drop comment "the tunnel's packets come from other hosts of the registry"
	}

	chain tunnel-passing {
		@th,96,24 != 0x1 accept comment "another VXLAN"
		ip daddr @network4 accept comment "a VXLAN between pods"
		ip6 daddr @network6 accept comment "a VXLAN between pods"
		iifname "cni0" drop comment "pods send no packets of the tunnel"
		iifname "overlay0" drop comment "pods send no packets of the tunnel"
	}

	chain input {
		type filter hook input priority filter; policy accept;
		udp dport 4789 jump tunnel-arriving comment "packets to the tunnel's port"
	}

	chain forward {
		type filter hook forward priority filter; policy accept;
		udp dport 4789 jump tunnel-passing comment "packets to the tunnel's port"
	}

	chain untracked-in {
		type filter hook prerouting priority raw; policy accept;
		udp dport 4789 @th,96,24 0x1 fib daddr type local notrack comment "connection tracking would have an entry for each flow in the tunnel"
	}

	chain untracked-out {
		type filter hook output priority raw; policy accept;
		udp dport 4789 @th,96,24 0x1 notrack comment "connection tracking would have an entry for each flow in the tunnel"
	}

	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr @own4 ip daddr != @network4 ip daddr != @exempt4 oifname != "cni0" masquerade fully-random comment "what leaves the pod network gets the address of the host"
		oifname "overlay0" ip saddr != @network4 masquerade fully-random comment "what enters the tunnel from outside the pod network gets the tunnel's address"
		ip daddr @network4 ip saddr != @network4 oifname != "cni0" ct status dnat masquerade fully-random comment "answers to what this host redirects to another host's pod come back here"
		ip6 saddr @own6 ip6 daddr != @network6 ip6 daddr != @exempt6 oifname != "cni0" masquerade fully-random comment "what leaves the pod network gets the address of the host"
		oifname "overlay0" ip6 saddr != @network6 masquerade fully-random comment "what enters the tunnel from outside the pod network gets the tunnel's address"
		ip6 daddr @network6 ip6 saddr != @network6 oifname != "cni0" ct status dnat masquerade fully-random comment "answers to what this host redirects to another host's pod come back here"
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
		{"tracked, from any source", func(c *firewall.Config) { c.Tunnel.Tracked, c.Tunnel.AnySource = true, true }},
		{"another VNI and port", func(c *firewall.Config) { c.Tunnel.VNI, c.Tunnel.Port = 1<<24-1, 8472 }},
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
		"delete " + table: ": made with 13 elements (was missing)",
		"flush " + table:  ", chain output: refilled (rule 1 was missing)",
		"add rule inet overlay-cni postrouting counter":                              ", chain postrouting: refilled (rule 7 does not belong there)",
		"insert rule inet overlay-cni output accept":                                 ", chain output: refilled (rule 1 was altered)",
		"add chain inet overlay-cni output { policy drop; }":                         ", chain output: refilled (its policy was altered)",
		"add chain inet overlay-cni stranger { type filter hook input priority 0; }": ", chain stranger: removed (does not belong there)",
		"add map inet overlay-cni stranger { type inet_service : verdict; }":         ", map stranger: removed (does not belong there)",
		"delete element inet overlay-cni own4 { 10.244.1.0-10.244.1.255 }":           ", set own4: added 10.244.1.0-10.244.1.255",
		"delete element inet overlay-cni peers4 { 192.168.77.9 }":                    ", set peers4: added 192.168.77.9",
		"flush chain inet overlay-cni tunnel-arriving":                               ", chain tunnel-arriving: refilled (rule 1 was missing)",
		"flush chain inet overlay-cni untracked-in":                                  ", chain untracked-in: refilled (rule 1 was missing)",
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
			Masquerade: r.IntN(10) > 0, Bridge: []string{"cni0", "cni1"}[r.IntN(8)/7], Tunnel: randomTunnel(r),
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

func randomTunnel(r *rand.Rand) firewall.Tunnel {
	t := firewall.Tunnel{Device: "overlay0", VNI: 1 + r.Uint32N(2), Port: 4789, AnySource: r.IntN(4) == 0, Tracked: r.IntN(4) == 0}
	for range r.IntN(12) {
		t.Peers = append(t.Peers, v4(r.Uint32N(16)), v6(r.Uint32N(16)))
	}
	return t
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
