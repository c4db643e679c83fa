package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestHostsFindEachOther(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		config  string
		lengths []int
	}{
		"IPv4": {"networks: [10.244.0.0/16]", []int{24}},
		"IPv6": {"networks: [fd00:1::/48]", []int{64}},
		"both": {"networks: [fd00:1::/48, 10.244.0.0/16]\nsubnetLengths: {ipv4: 26}", []int{64, 26}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startCluster(t, setup{})
			c.put("/overlay-cni/config", tt.config)
			a, b := c.join(1), c.join(2)
			v := a.awaitNames("host-1 host-2")
			b.awaitNames("host-1 host-2")
			for i, length := range tt.lengths {
				one, two := v.nodes[0].Subnets[i], v.nodes[1].Subnets[i]
				if one.Bits() != length || two.Bits() != length || one.Overlaps(two) {
					t.Errorf("subnets %s and %s, want two of length %d", one, two, length)
				}
			}
			if !slices.Equal(v.nodes[0].Addresses, address(1)) {
				t.Errorf("host-1 has addresses %v", v.nodes[0].Addresses)
			}
			a.SetAddresses(address(7))
			b.await("the new address", func(v view) bool { return slices.Equal(v.node("host-1").Addresses, address(7)) })
		})
	}
}

func TestRestartKeepsTheSubnetAndNobodyNotices(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{})
	c.put("/overlay-cni/config", config4)
	b := c.join(2)
	a := c.join(1)
	had := a.own()
	b.awaitNames("host-1 host-2")
	for len(b.changed) > 0 {
		<-b.changed
	}
	before := c.get("/overlay-cni/nodes/host-1").Kvs[0].ModRevision
	a.close()
	a = c.join(1)
	if has := a.own(); !slices.Equal(has.Subnets, had.Subnets) {
		t.Errorf("it had %v and has %v", had.Subnets, has.Subnets)
	}
	// A change that b sees comes after the restart's.
	c.put("/overlay-cni/config", config4+"# touched\n")
	if kv := c.get("/overlay-cni/nodes/host-1").Kvs[0]; kv.ModRevision == before || len(c.keys()) != 5 {
		t.Errorf("the restart wrote nothing, or too much: %q", c.keys())
	}
	if len(b.changed) > 0 {
		t.Error("another host takes the restart for a change")
	}
}

func TestRestartWithoutAddressesKeepsTheLease(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{})
	c.put("/overlay-cni/config", config4)
	a := c.join(1)
	had := a.own()
	a.close()
	before := c.get("/overlay-cni/nodes/host-1").Kvs[0].Lease
	again := c.joinSilent(1)
	if has := again.own(); !slices.Equal(has.Addresses, had.Addresses) {
		t.Errorf("it had %v and has %v", had, has)
	}
	again.await("another lease", func(view) bool { return c.get("/overlay-cni/nodes/host-1").Kvs[0].Lease != before })
}

func TestLostHostIsRemovedAndItsSubnetFree(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{})
	c.put("/overlay-cni/config", config4)
	a := c.join(1, func(o *Options) { o.TTL = 2e9 })
	b := c.join(2)
	had := a.own()
	b.awaitNames("host-1 host-2")
	a.close() // and does not renew
	b.awaitNames("host-2")
	if keys := strings.Join(c.keys(), " "); strings.Contains(keys, had.Subnets[0].Addr().String()) {
		t.Errorf("keys are left: %s", keys)
	}
}

func TestLeaseIsRenewed(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{})
	c.put("/overlay-cni/config", config4)
	a := c.join(1, func(o *Options) { o.TTL = 6e9 })
	b := c.join(2, func(o *Options) { o.TTL = 6e9 })
	b.awaitNames("host-1 host-2")
	created := c.get("/overlay-cni/nodes/host-1").Kvs[0].CreateRevision
	// host-3 outlives two times to live of the others; so do they.
	third := c.join(3, func(o *Options) { o.TTL = 13e9 })
	third.own()
	third.close()
	b.awaitNames("host-1 host-2 host-3")
	b.awaitNames("host-1 host-2")
	a.awaitNames("host-1 host-2")
	if now := c.get("/overlay-cni/nodes/host-1").Kvs[0].CreateRevision; now != created {
		t.Errorf("the key was lost and written again, at %d and %d", created, now)
	}
}

// The subnet a host had is that of node.json after a reboot.
func TestReturnAfterTheLeaseEnded(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ had, want []netip.Prefix }{
		"free":          {prefixes("10.244.7.0/24"), prefixes("10.244.7.0/24")},
		"of others":     {prefixes("10.244.1.0/24"), nil},
		"of old config": {prefixes("10.9.0.0/24"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startCluster(t, setup{})
			c.put("/overlay-cni/config", config4)
			c.join(1, func(o *Options) { o.Previous = prefixes("10.244.1.0/24") }).own()
			b := c.join(2, func(o *Options) { o.Previous = tt.had })
			has := b.own().Subnets
			if tt.want != nil && !slices.Equal(has, tt.want) {
				t.Errorf("it has %v, want %v", has, tt.want)
			}
			warned := strings.Contains(b.log.String(), "level=ERROR")
			if want := tt.want == nil; warned != want || slices.Equal(has, tt.had) != (tt.want != nil) {
				t.Errorf("it has %v; log: %s", has, b.log)
			}
		})
	}
}

func TestOtherMachineOfTheSameNameIsRefused(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{})
	c.put("/overlay-cni/config", config4)
	a := c.join(1)
	had := a.own()
	other := c.join(1, func(o *Options) { o.HostID = "another" })
	other.SetAddresses(address(9))
	v := other.awaitError("another machine, [192.168.0.1], is registered as \"host-1\"", "delete the key /overlay-cni/nodes/host-1")
	wantError(t, v.err, ErrNameTaken)
	if len(v.nodes) != 0 {
		t.Errorf("it would take the other machine's entry for its own: %s", v)
	}
	if has := a.own(); !slices.Equal(has.Subnets, had.Subnets) {
		t.Errorf("the first one lost its subnet")
	}
	// When the first one leaves, the second is let in at once.
	a.leave()
	if has := other.own(); !slices.Equal(has.Addresses, address(9)) {
		t.Errorf("got %v", has)
	}
}

func TestOneOfManyGetsTheName(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{})
	c.put("/overlay-cni/config", config4)
	var all []*host
	for i := range 10 {
		h := c.joinSilent(1, func(o *Options) { o.HostID = fmt.Sprint(i) })
		h.SetAddresses(address(i))
		all = append(all, h)
	}
	let := 0
	for _, h := range all {
		v := h.await("a decision", func(v view) bool { return v.err == nil && len(v.nodes) == 1 || errors.Is(v.err, ErrNameTaken) })
		let += len(v.nodes)
	}
	if keys := c.keys(); let != 1 || len(keys) != 3 {
		t.Errorf("%d were let in; keys %q", let, keys)
	}
}

func TestCopiedMachineIsNoticed(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{})
	c.put("/overlay-cni/config", config4)
	a := c.join(1)
	a.own()
	twin := c.join(1)
	twin.SetAddresses(address(9))
	v := a.awaitError("another overlayd with the same node name and machine id, at [192.168.0.9]")
	wantError(t, v.err, ErrNameTaken)
	if v.node("host-1").Name != "" {
		t.Errorf("the twin's entry is shown: %s", v)
	}
	// They don't take it from each other for ever.
	revision := c.get("/overlay-cni/nodes/host-1").Kvs[0].ModRevision
	c.put("/overlay-cni/nodes/host-8", encode(record{Version: 1, Addresses: address(8), Subnets: prefixes("10.244.8.0/24")}))
	a.await("another change", func(v view) bool { return v.node("host-8").Name != "" })
	if now := c.get("/overlay-cni/nodes/host-1").Kvs[0].ModRevision; now != revision {
		t.Errorf("the key was written at %d and again at %d", revision, now)
	}
}

func TestRenamedHostTakesItsSubnetsAlong(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{})
	c.put("/overlay-cni/config", config4)
	b := c.join(2)
	a := c.join(1)
	had := a.own()
	a.close()
	renamed := c.join(3, func(o *Options) { o.HostID = "machine of host-1" })
	renamed.SetAddresses(had.Addresses)
	v := b.awaitNames("host-2 host-3")
	if !slices.Equal(v.node("host-3").Subnets, had.Subnets) {
		t.Errorf("it had %v and has %v", had.Subnets, v.node("host-3").Subnets)
	}
}

func TestRelease(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{})
	c.put("/overlay-cni/config", config4)
	a, b := c.join(1), c.join(2)
	b.awaitNames("host-1 host-2")
	had := a.own().Subnets
	a.close()
	o := Options{Endpoints: c.endpoints(), Node: "host-1", HostID: "another"}
	_, err := Release(t.Context(), o)
	wantError(t, err, ErrNameTaken)
	o.HostID = "machine of host-1"
	for _, want := range [][]netip.Prefix{had, nil} { // the second time there is nothing left to do
		if freed, err := Release(t.Context(), o); err != nil || !slices.Equal(freed, want) {
			t.Errorf("freed %v, %v; want %v", freed, err, want)
		}
	}
	b.awaitNames("host-2")
	if keys := c.keys(); len(keys) != 3 {
		t.Errorf("left: %q", keys)
	}
}

// expiring has a host's lease end between the look at its key and the answer.
type expiring struct {
	clientv3.KV
	end func()
}

func (e expiring) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	defer e.end()
	return e.KV.Get(ctx, key, opts...)
}

// If the lease ends by itself just then, Release succeeds.
func TestReleaseWhileTheLeaseEnds(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{})
	c.put("/overlay-cni/config", config4)
	a := c.join(1)
	a.own()
	a.close()
	c.do(func(ctx context.Context, client *clientv3.Client) error {
		client.KV = expiring{client.KV, func() { c.expire("host-1") }}
		freed, err := leave(ctx, client, a.opts)
		if len(freed) > 0 {
			t.Errorf("freed %v, which may be another's by now", freed)
		}
		return err
	})
	if keys := c.keys(); len(keys) != 1 {
		t.Errorf("left: %q", keys)
	}
}

func TestAddressInThePodNetworkIsRefused(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{})
	c.put("/overlay-cni/config", "networks: [192.168.0.0/16]")
	c.join(1).awaitError("its address 192.168.0.1 lies in the pods' network 192.168.0.0/16")
}

// A host announces an address of each family, in an order that may change. Hosts of
// earlier releases announced one address. The registry reads such an entry as it is;
// the host announces the other address after its update.
func TestHostAnnouncesBothFamilies(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{})
	c.put("/overlay-cni/config", "networks: [10.244.0.0/16, \"fd44::/48\"]")
	addrs := func(texts ...string) []netip.Addr {
		var all []netip.Addr
		for _, text := range texts {
			all = append(all, netip.MustParseAddr(text))
		}
		return all
	}
	a, b := c.join(1), c.join(2)
	was := a.awaitNames("host-1 host-2").node("host-1").Subnets
	for _, tt := range []struct {
		name      string
		set, want []netip.Addr
	}{
		{"IPv4 first", addrs("192.168.0.1", "fd77::1"), addrs("192.168.0.1", "fd77::1")},
		{"IPv6 first", addrs("fd77::1", "192.168.0.1"), addrs("fd77::1", "192.168.0.1")},
		{"IPv6 alone", addrs("fd77::1"), addrs("fd77::1")},
		{"both again, of which one is inside the pods' network", addrs("192.168.0.1", "fd44::1"), addrs("192.168.0.1")},
		{"as old ones do", addrs("192.168.0.1"), addrs("192.168.0.1")},
	} {
		a.SetAddresses(tt.set)
		v := b.await(tt.name, func(v view) bool { return slices.Equal(v.node("host-1").Addresses, tt.want) })
		if got := v.node("host-1").Subnets; v.err != nil || !slices.Equal(got, was) {
			t.Errorf("%s: it has %v, and had %v; error %v", tt.name, got, was, v.err)
		}
	}
}

func TestHostWaitsForItsAddress(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{})
	c.put("/overlay-cni/config", config4)
	c.join(2).own()
	a := c.join(1)
	a.own()
	a.close()
	c.expire("host-1")
	again := c.joinSilent(1)
	if v := again.awaitError("its address on the underlay is not known"); v.names() != "host-2" {
		t.Errorf("got %s", v)
	}
	again.SetAddresses(address(1))
	again.awaitNames("host-1 host-2")
}

// Two hosts that swap subnets in one transaction never look as if they had the
// same.
func TestSwapIsSeenAtOnce(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{})
	c.timing.heartbeat = time.Minute // silence of a busy etcd is no fault here
	c.put("/overlay-cni/config", config4)
	a := c.join(1, func(o *Options) { o.Previous = prefixes("10.244.99.0/24") })
	a.own()
	one, two := prefixes("10.244.1.0/24"), prefixes("10.244.2.0/24")
	for range 50 {
		c.putNodes(map[string]record{
			"host-8": {Version: 1, Addresses: address(8), Subnets: one},
			"host-9": {Version: 1, Addresses: address(9), Subnets: two},
		})
		a.await("the swap, and never anything between", func(v view) bool {
			if v.err != nil {
				t.Fatalf("it shows %s", v)
			}
			return slices.Equal(v.node("host-8").Subnets, one)
		})
		one, two = two, one
	}
}

func TestBadNodesDontStopTheOthers(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{})
	c.put("/overlay-cni/config", config4)
	a := c.join(1)
	a.own()
	c.put("/overlay-cni/nodes/host-8", encode(record{Version: 1, Addresses: address(8), Subnets: prefixes("10.244.88.0/24")}))
	a.awaitNames("host-1 host-8")
	c.put("/overlay-cni/nodes/host-8", "{")
	c.put("/overlay-cni/nodes/host-9", `{"version":2}`)
	v := a.awaitError("/overlay-cni/nodes/host-8 in etcd: unexpected end of JSON", "/overlay-cni/nodes/host-9 in etcd: format 2 is newer than the 1")
	if v.names() != "host-1 host-8" {
		t.Errorf("a value that can't be read does not leave what was known: %s", v)
	}
	// The same address: the one written later stays.
	c.putNodes(map[string]record{"host-8": {Version: 1, Addresses: address(1), Subnets: prefixes("10.244.88.0/24")}})
	c.remove("/overlay-cni/nodes/host-9")
	a.awaitError("node \"host-1\": address 192.168.0.1 is also the address of node \"host-8\"")
	a.await("host-8 alone", func(v view) bool { return v.names() == "host-8" })
	c.remove("/overlay-cni/nodes/host-8")
	a.awaitNames("host-1")
}
