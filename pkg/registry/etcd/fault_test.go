package etcd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

func TestStartBeforeEtcd(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{})
	c.put("/overlay-cni/config", config4)
	c.members[0].kill()
	a := c.join(1)
	a.awaitError("etcd (" + c.members[0].client + "): list the nodes: no answer in 100ms, still trying")
	v := a.awaitError("etcd ("+c.members[0].client+"): list the nodes: no answer in 1s", "connection refused")
	wantError(t, v.err, registry.ErrNotReady)
	if v.nodes != nil {
		t.Errorf("nodes %v before the first list", v.nodes)
	}
	c.members[0].start()
	a.awaitNames("host-1")
}

func TestKilledServerComesBack(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{})
	c.put("/overlay-cni/config", config4)
	a, b := c.join(1), c.join(2)
	had := a.awaitNames("host-1 host-2")
	b.awaitNames("host-1 host-2")
	c.members[0].kill()
	if v := a.awaitError("watch the nodes: no sign of life in 300ms"); v.names() != "host-1 host-2" {
		t.Errorf("the last good set is gone: %s", v)
	}
	if v := a.awaitError("connection refused"); v.names() != "host-1 host-2" {
		t.Errorf("the last good set is gone: %s", v)
	}
	c.members[0].start()
	for _, h := range []*host{a, b} {
		if has := h.awaitNames("host-1 host-2"); !slices.EqualFunc(has.nodes, had.nodes, sameNode) {
			t.Errorf("before %s, now %s", had, has)
		}
	}
	c.join(3)
	a.awaitNames("host-1 host-2 host-3")
}

func sameNode(a, b registry.Node) bool {
	return a.Name == b.Name && slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.Subnets, b.Subnets)
}

func TestHangingServerIsNoticed(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{})
	c.put("/overlay-cni/config", config4)
	a := c.join(1)
	a.own()
	c.members[0].signal(syscall.SIGSTOP)
	if v := a.awaitError("no sign of life"); v.names() != "host-1" {
		t.Errorf("the last good set is gone: %s", v)
	}
	c.members[0].signal(syscall.SIGCONT)
	a.awaitNames("host-1")
}

func TestQuorumIsLost(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{members: 3})
	c.put("/overlay-cni/config", config4)
	a := c.join(1)
	a.own()
	c.members[0].kill()
	// Two of three members work, and nobody can reach the third.
	b := c.join(2)
	b.own()
	a.await("host-2", func(v view) bool { return v.names() == "host-1 host-2" })

	c.members[1].kill()
	late := c.join(3)
	wantError(t, late.awaitError("etcdserver: no leader").err, registry.ErrNotReady)
	for _, h := range []*host{a, b} {
		if v := h.awaitError("etcdserver: no leader"); v.names() != "host-1 host-2" {
			t.Errorf("the last good set is gone: %s", v)
		}
	}
	c.members[0].start()
	for _, h := range []*host{a, b, late} {
		h.awaitNames("host-1 host-2 host-3")
	}
}

// Every member is killed and started again, one after the other, while hosts
// come: each gets in, and all see the same in the end.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{members: 3})
	c.put("/overlay-cni/config", config4)
	hosts := []*host{c.join(0)}
	hosts[0].own()
	names := "host-0"
	for i, m := range c.members {
		m.kill()
		h := c.join(i + 1)
		hosts = append(hosts, h)
		h.own()
		m.start()
		names += fmt.Sprintf(" host-%d", i+1)
	}
	for _, h := range hosts {
		h.awaitNames(names)
	}
}

func TestWatchFromACompactedRevision(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{})
	c.put("/overlay-cni/config", config4)
	line := newWire(t, c.members[0])
	a := c.join(1, func(o *Options) { o.Endpoints = []string{line.address} })
	a.own()
	b := c.join(2)
	a.awaitNames("host-1 host-2")

	line.setCut(true)
	b.close()
	c.expire("host-2")
	c.join(3).own()
	c.do(func(ctx context.Context, client *clientv3.Client) error {
		resp, err := client.Get(ctx, "/")
		if err == nil {
			_, err = client.Compact(ctx, resp.Header.Revision, clientv3.WithCompactPhysical())
		}
		return err
	})
	line.setCut(false)
	a.awaitNames("host-1 host-3")
}

// The whole time to live passes without a word from the host.
func TestPartitionOutlivesTheLease(t *testing.T) {
	t.Parallel()
	for name, taken := range map[string]bool{"subnet free": false, "subnet taken": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startCluster(t, setup{})
			c.put("/overlay-cni/config", config4)
			line := newWire(t, c.members[0])
			a := c.join(1, func(o *Options) { o.Endpoints, o.TTL = []string{line.address}, 2*time.Second })
			b := c.join(2)
			had := a.awaitNames("host-1 host-2").node("host-1").Subnets
			b.awaitNames("host-1 host-2")

			line.setCut(true)
			b.awaitNames("host-2")
			names := "host-1 host-2"
			if taken {
				c.join(3, func(o *Options) { o.Previous = had }).own()
				names = "host-1 host-2 host-3"
			}
			nodes, _ := a.Nodes()
			if v := (view{nodes: nodes}); v.names() != "host-1 host-2" {
				t.Errorf("the host lost its nodes: %s", v)
			}
			line.setCut(false)
			has := a.awaitNames(names).node("host-1").Subnets
			b.awaitNames(names)
			if slices.Equal(has, had) == taken {
				t.Errorf("it had %v and has %v", had, has)
			}
			if strings.Contains(a.log.String(), "pod subnets changed") != taken {
				t.Errorf("log: %s", a.log)
			}
		})
	}
}

// A restored backup has older revisions: a watch from a newer one would be silent.
func TestRestoredBackup(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{})
	c.put("/overlay-cni/config", config4)
	a := c.join(1)
	had := a.own()
	m := c.members[0]
	m.kill()
	backup := filepath.Join(t.TempDir(), "backup")
	if err := os.CopyFS(backup, os.DirFS(m.dir+"/data")); err != nil {
		t.Fatal(err)
	}
	m.start()
	c.ready()
	for i := range 20 {
		c.put("/overlay-cni/nodes/host-8", encode(record{Version: 1, Addresses: address(100 + i), Subnets: prefixes("10.244.8.0/24")}))
	}
	a.await("host-8", func(v view) bool { return v.node("host-8").Name != "" })
	m.kill()
	if err := errors.Join(os.RemoveAll(m.dir+"/data"), os.CopyFS(m.dir+"/data", os.DirFS(backup))); err != nil {
		t.Fatal(err)
	}
	m.start()
	if v := a.awaitNames("host-1"); !sameNode(v.nodes[0], had) {
		t.Errorf("it had %v and has %v", had, v.nodes[0])
	}
	c.join(2)
	a.awaitNames("host-1 host-2")
}

// Somebody begins anew with an empty cluster: what is known stays until there
// is a configuration again.
func TestEmptyClusterIsNotBelieved(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{})
	c.put("/overlay-cni/config", config4)
	a, b := c.join(1), c.join(2)
	had := a.awaitNames("host-1 host-2")
	b.awaitNames("host-1 host-2")
	m := c.members[0]
	m.kill()
	if err := os.RemoveAll(m.dir + "/data"); err != nil {
		t.Fatal(err)
	}
	m.start()
	v := a.awaitError("the network has no configuration: put one into the key /overlay-cni/config")
	if !slices.EqualFunc(v.nodes, had.nodes, sameNode) {
		t.Errorf("had %s, has %s", had, v)
	}
	c.put("/overlay-cni/config", config4)
	has := a.awaitNames("host-1 host-2")
	if !slices.EqualFunc(has.nodes, had.nodes, sameNode) {
		t.Errorf("had %s, has %s", had, has)
	}
}

func TestDeletedKeysComeBack(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{})
	c.put("/overlay-cni/config", config4)
	a := c.join(1)
	had := a.own()
	for what, remove := range map[string]func(){
		"node key": func() { c.remove("/overlay-cni/nodes/host-1") },
		"both":     func() { c.remove("/overlay-cni/n", clientv3.WithRange("/overlay-cni/z")) },
		"lease":    func() { c.expire("host-1") },
	} {
		before := c.get("/overlay-cni/nodes/host-1").Kvs[0].ModRevision
		remove()
		c.awaitPut("/overlay-cni/nodes/host-1", before)
		if v := a.awaitNames("host-1"); !sameNode(v.nodes[0], had) || len(c.keys()) != 3 {
			t.Errorf("%s: had %v, has %v, keys %q", what, had, v, c.keys())
		}
	}
}

// With the times of real life, an etcd that ends every connection, or refuses
// every request, is asked a few times a second at most.
func TestNoBusyLoop(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*cluster, *wire){
		"no connection": func(_ *cluster, w *wire) { w.setCut(true) },
		"no permission": func(c *cluster, _ *wire) { c.enableAuth("hosts", "secret") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startCluster(t, setup{})
			c.timing = defaultTiming()
			line := newWire(t, c.members[0])
			prepare(c, line)
			c.join(1, func(o *Options) { o.Endpoints = []string{line.address} })
			<-time.After(3 * time.Second)
			if n := line.connections(); n < 1 || n > 10 {
				t.Errorf("%d connections in 3 seconds", n)
			}
		})
	}
}

// Not in parallel: the time that Close takes is measured.
func TestCloseDoesNotWaitForEtcd(t *testing.T) {
	c := startCluster(t, setup{})
	c.put("/overlay-cni/config", config4)
	up := c.join(1)
	up.own()
	c.members[0].signal(syscall.SIGSTOP)
	down := c.join(2)
	for _, h := range []*host{up, down} {
		started := time.Now()
		h.close()
		if took := time.Since(started); took > time.Second {
			t.Errorf("%s took %s to close", h.name, took)
		}
	}
	if nodes, _ := up.Nodes(); len(nodes) != 1 {
		t.Errorf("after Close: %v", nodes)
	}
}
