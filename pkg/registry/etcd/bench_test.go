package etcd

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// fill writes nodes as that many hosts would have.
func (c *cluster) fill(nodes int) {
	c.do(func(ctx context.Context, client *clientv3.Client) error {
		for i := range nodes {
			r := record{Version: 1, Host: "0123456789abcdef0123456789abcdef", Instance: "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
				Addresses: []netip.Addr{netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)})},
				Subnets:   []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)}}
			name := fmt.Sprintf("node-%05d", i)
			_, err := client.Txn(ctx).Then(
				clientv3.OpPut(DefaultPrefix+"/nodes/"+name, encode(r)),
				clientv3.OpPut(keys{DefaultPrefix}.subnet(r.Subnets[0]), encode(holder{Node: name, Host: r.Host})),
			).Commit()
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// BenchmarkStart is from New to the first full list of 5,000 nodes with this
// host among them.
func BenchmarkStart(b *testing.B) {
	c := startCluster(b, setup{})
	c.put("/overlay-cni/config", "networks: [10.0.0.0/8]")
	c.fill(5000)
	for b.Loop() {
		h := c.join(60000)
		h.await("all nodes", func(v view) bool { return len(v.nodes) == 5001 && v.err == nil })
		h.close()
	}
}

// BenchmarkChange is from the writing of one node's key to the answer that has
// it, among 5,000.
func BenchmarkChange(b *testing.B) {
	c := startCluster(b, setup{})
	c.put("/overlay-cni/config", "networks: [10.0.0.0/8]")
	c.fill(5000)
	h := c.join(60000)
	h.await("all nodes", func(v view) bool { return len(v.nodes) == 5001 && v.err == nil })
	client, err := clientv3.New(c.config)
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	i := 0
	for b.Loop() {
		i++
		address := netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})
		value := encode(record{Version: 1, Addresses: []netip.Addr{address}, Subnets: prefixes("10.0.0.0/24")})
		if _, err := client.Put(b.Context(), DefaultPrefix+"/nodes/node-00000", value); err != nil {
			b.Fatal(err)
		}
		h.await("the address", func(v view) bool {
			for _, n := range v.nodes {
				if n.Name == "node-00000" {
					return n.Addresses[0] == address
				}
			}
			return false
		})
	}
}

// BenchmarkCrowd is from the start of 500 hosts at once until each of them has
// a subnet and sees all others.
func BenchmarkCrowd(b *testing.B) {
	const hosts = 500
	for b.Loop() {
		c := startCluster(b, setup{})
		c.timing = defaultTiming()
		c.put("/overlay-cni/config", "networks: [10.244.0.0/15]") // 512 subnets
		started := time.Now()
		var all []*host
		for i := range hosts {
			all = append(all, c.join(i))
		}
		for _, h := range all {
			h.own()
		}
		b.ReportMetric(time.Since(started).Seconds(), "s/all-registered")
		for _, h := range all {
			h.await("all others", func(v view) bool { return len(v.nodes) == hosts && v.err == nil })
		}
		b.ReportMetric(time.Since(started).Seconds(), "s/all-see-all")
		for _, h := range all {
			h.close()
		}
	}
}
