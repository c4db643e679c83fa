package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

var _ registry.Registry = (*Registry)(nil)

const config4 = "networks: [10.244.0.0/16]\n"

// quick is the timing of a registry in tests. The registry tries again only after a
// change, so a test that passes has seen the change.
func quick() timing {
	return timing{
		request:    time.Second,
		slow:       100 * time.Millisecond,
		heartbeat:  300 * time.Millisecond,
		again:      time.Hour,
		firstRetry: 20 * time.Millisecond,
		lastRetry:  200 * time.Millisecond,
	}
}

// host is the registry of one host.
type host struct {
	*Registry
	t    testing.TB
	name string
	log  *logBuffer
}

// join makes a host. Its machine is named after it, and its address follows
// from its number.
func (c *cluster) join(number int, changes ...func(*Options)) *host {
	c.t.Helper()
	h := c.joinSilent(number, changes...)
	h.SetAddresses(address(number))
	return h
}

// joinSilent makes a host that doesn't know its address.
func (c *cluster) joinSilent(number int, changes ...func(*Options)) *host {
	c.t.Helper()
	name := fmt.Sprintf("host-%d", number)
	log := &logBuffer{}
	o := Options{
		Endpoints: c.endpoints(), Node: name, HostID: "machine of " + name,
		Log: slog.New(slog.NewTextHandler(log, nil)),
	}
	o, err := o.complete()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, change := range changes {
		change(&o)
	}
	r, err := open(o, c.timing)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { r.Close() })
	return &host{Registry: r, t: c.t, name: o.Node, log: log}
}

func address(number int) []netip.Addr {
	return []netip.Addr{netip.AddrFrom4([4]byte{192, 168, byte(number >> 8), byte(number)})}
}

type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// view is what Nodes returned.
type view struct {
	nodes []registry.Node
	err   error
}

func (v view) names() string {
	var names []string
	for _, n := range v.nodes {
		names = append(names, n.Name)
	}
	return strings.Join(names, " ")
}

func (v view) node(name string) registry.Node {
	for _, n := range v.nodes {
		if n.Name == name {
			return n
		}
	}
	return registry.Node{}
}

func (v view) String() string { return fmt.Sprintf("nodes %v, error %v", v.nodes, v.err) }

// await returns when the registry answers as wanted, looking only when Changed
// says so.
func (h *host) await(what string, wanted func(view) bool) view {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patient)
	defer cancel()
	for {
		nodes, err := h.Nodes()
		v := view{nodes, err}
		if wanted(v) {
			return v
		}
		select {
		case <-h.Changed():
		case <-ctx.Done():
			h.t.Fatalf("%s: waiting for %s: %s\nlog: %s", h.name, what, v, h.log)
		}
	}
}

// awaitNames waits for exactly these nodes, without an error.
func (h *host) awaitNames(names string) view {
	h.t.Helper()
	return h.await("nodes "+names+" and no error", func(v view) bool { return v.names() == names && v.err == nil })
}

// awaitError waits for an error with this text.
func (h *host) awaitError(parts ...string) view {
	h.t.Helper()
	return h.await(fmt.Sprintf("an error with %q", parts), func(v view) bool {
		return v.err != nil && !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(v.err.Error(), p) })
	})
}

// own waits until the host is registered, and returns its node.
func (h *host) own() registry.Node {
	h.t.Helper()
	v := h.await("its own entry and no error", func(v view) bool { return v.err == nil && v.node(h.name).Name != "" })
	return v.node(h.name)
}

func (h *host) close() {
	h.t.Helper()
	if err := h.Close(); err != nil {
		h.t.Error(err)
	}
}

// leave ends the host, and gives its subnets back.
func (h *host) leave() {
	h.t.Helper()
	h.close()
	if _, err := Release(h.t.Context(), h.opts); err != nil {
		h.t.Fatal(err)
	}
}

// expire ends the lease of a host that was closed, as if its time were over.
func (c *cluster) expire(name string) {
	c.t.Helper()
	kv := c.get(DefaultPrefix + "/nodes/" + name).Kvs[0]
	c.do(func(ctx context.Context, client *clientv3.Client) error {
		_, err := client.Revoke(ctx, clientv3.LeaseID(kv.Lease))
		return err
	})
}

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func wantError(t *testing.T, err error, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v is not %v", err, want)
	}
}

// putNodes writes keys of nodes as no host would, in one transaction.
func (c *cluster) putNodes(nodes map[string]record) {
	c.t.Helper()
	var ops []clientv3.Op
	for name, r := range nodes {
		ops = append(ops, clientv3.OpPut(DefaultPrefix+"/nodes/"+name, encode(r)))
	}
	c.do(func(ctx context.Context, client *clientv3.Client) error {
		_, err := client.Txn(ctx).Then(ops...).Commit()
		return err
	})
}
