package etcd

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// As many hosts as there are subnets come at once. All get one.
func TestCrowdGetsTheLastSubnet(t *testing.T) {
	t.Parallel()
	const hosts = 100
	c := startCluster(t, setup{})
	// 128 subnets, of which 28 are excluded.
	c.put("/overlay-cni/config", "networks: [10.244.0.0/17, fd00:1::/57]\nexclude: [10.244.100.0/22, 10.244.104.0/21, 10.244.112.0/20, fd00:1::/60, fd00:1:0:10::/61, fd00:1:0:18::/62]\n")
	var all []*host
	for i := range hosts {
		all = append(all, c.join(i))
	}
	v := all[0].await("all of them", func(v view) bool { return len(v.nodes) == hosts && v.err == nil })
	seen := map[netip.Prefix]string{}
	for _, n := range v.nodes {
		for _, p := range n.Subnets {
			if other, twice := seen[p]; twice {
				t.Errorf("%s is that of %s and %s", p, other, n.Name)
			}
			seen[p] = n.Name
		}
	}
	if len(seen) != 2*hosts {
		t.Errorf("%d subnets, want %d", len(seen), 2*hosts)
	}
	for _, h := range all[1:] {
		h.await("all of them", func(v view) bool { return len(v.nodes) == hosts && v.err == nil })
	}

	c.checkHistory()

	late := c.join(hosts)
	full := late.awaitError("no free subnet left in 10.244.0.0/17: all 128 of length /24 are taken or excluded")
	wantError(t, full.err, ErrNoFreeSubnet)
	if len(full.nodes) != hosts || strings.Contains(full.names(), late.name) {
		t.Errorf("the late one sees %d nodes", len(full.nodes))
	}
	all[7].leave()
	if has := late.own(); seen[has.Subnets[0]] != "host-7" {
		t.Errorf("it has %v, want the subnet of host-7", has.Subnets)
	}
}

// Nobody watches the keys of subnets. A waiting host finds a key that was deleted
// without its node when it tries again.
func TestSubnetBecomesFreeUnseen(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{})
	c.timing.again = 50 * time.Millisecond
	c.put("/overlay-cni/config", "networks: [10.244.0.0/24]")
	c.put("/overlay-cni/subnets/10.244.0.0-24", "by hand")
	a := c.join(1)
	a.awaitError("no free subnet left in 10.244.0.0/24: all 1 of length /24")
	c.remove("/overlay-cni/subnets/10.244.0.0-24")
	a.awaitNames("host-1")
}

// Hosts join while the configuration changes. Whichever configuration each of them
// knows, no subnets overlap, and in the end all subnets fit the last configuration.
func TestCrowdInAChangingConfiguration(t *testing.T) {
	t.Parallel()
	const hosts = 30
	c := startCluster(t, setup{})
	config := func(i int) string {
		return fmt.Sprintf("networks: [10.244.0.0/19]\nsubnetLengths: {ipv4: %d}", 24+i%3)
	}
	c.put("/overlay-cni/config", config(0))
	var all []*host
	for i := range hosts {
		all = append(all, c.join(i))
		c.put("/overlay-cni/config", config(i))
	}
	want, _ := parseConfig("", []byte(config(hosts-1)))
	for _, h := range all {
		h.await("a subnet that fits", func(v view) bool { return v.err == nil && want.fits(v.node(h.name).Subnets) })
	}
	c.checkHistory()
}

// checkHistory replays all that was ever written: at no revision were there two
// subnets that overlap.
func (c *cluster) checkHistory() {
	c.t.Helper()
	const end = DefaultPrefix + "/end"
	c.put(end, "")
	k, revision, held := keys{DefaultPrefix}, int64(0), map[netip.Prefix]bool{}
	c.do(func(ctx context.Context, client *clientv3.Client) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		for resp := range client.Watch(ctx, DefaultPrefix, clientv3.WithPrefix(), clientv3.WithRev(1)) {
			for _, ev := range resp.Events {
				if ev.Kv.ModRevision != revision {
					checkDisjoint(c.t, revision, held)
				}
				revision = ev.Kv.ModRevision
				if string(ev.Kv.Key) == end {
					return nil
				}
				if p, ok := k.subnetOf(string(ev.Kv.Key)); ok {
					held[p] = ev.Type == clientv3.EventTypePut
				}
			}
		}
		return fmt.Errorf("the history ends at %d: %w", revision, ctx.Err())
	})
}

// checkDisjoint looks at neighbours: after sorting by address, a prefix that
// holds another comes right before one that it holds.
func checkDisjoint(t testing.TB, revision int64, held map[netip.Prefix]bool) {
	t.Helper()
	var sorted []netip.Prefix
	for p, there := range held {
		if there {
			sorted = append(sorted, p)
		}
	}
	slices.SortFunc(sorted, netip.Prefix.Compare)
	for i := 1; i < len(sorted); i++ {
		if sorted[i-1].Overlaps(sorted[i]) {
			t.Fatalf("at revision %d, %s and %s are held", revision, sorted[i-1], sorted[i])
		}
	}
}
