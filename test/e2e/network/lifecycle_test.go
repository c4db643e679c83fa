package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/test/e2e/internal/cluster"
)

// now deletes without a time to say goodbye.
var now = metav1.DeleteOptions{GracePeriodSeconds: new(int64)}

// Numbers of answers that show that a stream runs, and a connection, which asks less
// often.
const (
	warm      = 100
	connected = 20
)

// flow is a stream of UDP from a pod to another, and a TCP connection beside it.
type flow struct {
	*probe.Stream
	tcp      *probe.Connection
	from, to pod
}

// streams are flows between pods, none of which may lose a packet or its connection.
type streams struct {
	w   *world
	all []flow
}

// stream runs a flow from each pod to the next one, in each family: by the pods'
// order, within nodes and between nodes in turn. More flows would keep two cores
// so busy that the tests' own sockets overflow.
func (w *world) stream(pods []pod) *streams {
	w.Helper()
	slices.SortFunc(pods, func(a, b pod) int { return strings.Compare(a.node+a.name, b.node+b.name) })
	s := &streams{w: w}
	for i, from := range pods {
		for _, f := range w.cluster.Families {
			s.all = append(s.all, w.flow(f, from, pods[(i+1)%len(pods)]))
		}
	}
	s.run()
	return s
}

func (w *world) flow(f cluster.Family, from, to pod) flow {
	w.Helper()
	echo, err := probe.ServeEcho(to.netns, to.at(f, echoPort))
	w.must(err)
	w.Cleanup(func() { _ = echo.Close() })
	udp, err := probe.StartStream(from.netns, echo.Addr)
	w.must(err)
	w.Cleanup(func() { udp.Stop() })
	tcpEcho, err := probe.ServeTCPEcho(to.netns, to.at(f, echoPort))
	w.must(err)
	w.Cleanup(func() { _ = tcpEcho.Close() })
	tcp, err := probe.StartConnection(w.Context(), from.netns, tcpEcho.Addr)
	w.must(err)
	w.Cleanup(func() { tcp.Stop() })
	return flow{udp, tcp, from, to}
}

// run waits until all of them run.
func (s *streams) run() {
	s.w.Helper()
	ctx, cancel := context.WithTimeout(s.w.Context(), patient)
	defer cancel()
	for _, one := range s.all {
		s.w.must(one.Answered(ctx, warm))
		s.w.must(one.tcp.Answered(ctx, connected))
	}
}

// unharmed ends them: each still runs, nothing was lost, and each connection is the
// one that was made at the begin.
func (s *streams) unharmed() {
	s.w.Helper()
	s.run()
	sent, answers, gap := 0, 0, time.Duration(0)
	for _, one := range s.all {
		talk := one.tcp.Stop()
		answers, gap = answers+talk.Answers, max(gap, talk.Gap)
		if talk.Broken != nil {
			s.w.Errorf("the connection from %s to %s is broken after %d answers: %v", one.from, one.to, talk.Answers, talk.Broken)
		}
		counts := one.Stop()
		sent += counts.Sent
		if counts.Lost > 0 || counts.Duplicated > 0 {
			s.w.Errorf("%s to %s: %s, %d twice, longest gap %s; sockets there overflowed %d and %d times",
				one.from, one.to, counts, counts.Duplicated, counts.Gap, overflows(one.from.netns), overflows(one.to.netns))
		}
	}
	s.w.Logf("%d packets in %d flows; %d answers by TCP, longest gap %s", sent, len(s.all), answers, gap)
}

// overflows is how many datagrams came to a namespace and found no room in a
// socket, which is the tests' failure, not the network's.
func overflows(ns *sandbox.Netns) (n int) {
	var text []byte
	err := ns.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/snmp")
		return err
	})
	if err != nil {
		return -1
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if fields[0] != "Udp:" {
			continue
		}
		if i := slices.Index(names, "RcvbufErrors"); i > 0 {
			_, _ = fmt.Sscan(fields[i], &n) // the kernel writes numbers
		}
		names = fields
	}
	return n
}

// A node reboots: its pods get addresses again, and no other node's pods lose a
// packet.
func TestReboot(t *testing.T) {
	w := newWorld(t)
	pods := w.onAllNodes("a")
	const node = "worker2"
	s := w.stream(without(pods, node))
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	w.must(w.cluster.Reboot(ctx, node))
	w.must(w.cluster.AwaitReady(ctx))
	w.mesh(w.ready("a", len(pods)))
	s.unharmed()
	w.clean()
}

func without(pods []pod, node string) []pod {
	var rest []pod
	for _, p := range pods {
		if p.node != node {
			rest = append(rest, p)
		}
	}
	return rest
}

// A node is drained and deleted: the others forget it. It joins again and may get
// another pod subnet. Its /run and its kernel still have the old one, or nothing
// if the node was off.
func TestNodeLeavesAndReturns(t *testing.T) {
	for name, comeBack := range map[string]func(*cluster.Cluster, context.Context, cluster.Node) error{
		"kubelet starts again": (*cluster.Cluster).StartKubelet,
		"the node boots":       func(c *cluster.Cluster, ctx context.Context, n cluster.Node) error { return c.Reboot(ctx, n.Name) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			node, err := w.cluster.Node("worker2")
			w.must(err)
			pods := w.onAllNodes("a")
			s := w.stream(without(pods, node.Name))
			back := w.leave(node, comeBack)
			for _, p := range without(pods, node.Name) {
				w.eventually(p.node+" to forget "+node.Name, func(context.Context) error { return w.forgets(p.node, node) })
			}
			w.must(back())
			w.mesh(w.ready("a", len(pods)))
			s.unharmed()
			w.clean()
		})
	}
}

// leave removes a node from the cluster. It returns a function that brings the node
// back; otherwise the test's end does.
func (w *world) leave(n cluster.Node, comeBack func(*cluster.Cluster, context.Context, cluster.Node) error) (back func() error) {
	w.Helper()
	_, err := w.cluster.Kubectl(w.Context(), "drain", n.Name, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=60s")
	w.must(err)
	back = sync.OnceValue(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), patient)
		defer cancel()
		return errors.Join(comeBack(w.cluster, ctx, n), w.cluster.AwaitReady(ctx))
	})
	w.Cleanup(func() { w.must(back()) })
	w.must(w.cluster.Kill(w.Context(), n.Name, cluster.Kubelet))
	w.must(w.client.CoreV1().Nodes().Delete(w.Context(), n.Name, metav1.DeleteOptions{}))
	w.abandon(n.Name)
	return back
}

// abandon deletes the pods of a node that is gone, as Kubernetes does by itself a
// minute later.
func (w *world) abandon(node string) {
	w.Helper()
	pods, err := w.client.CoreV1().Pods("").List(w.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
	w.must(err)
	for _, p := range pods.Items {
		w.must(w.client.CoreV1().Pods(p.Namespace).Delete(w.Context(), p.Name, now))
	}
}

// forgets says what a node's tunnel still has of another node.
func (w *world) forgets(node string, gone cluster.Node) error {
	return w.cluster.At(node, func(_ *sandbox.Netns, h *netlink.Handle) error {
		link, err := h.LinkByName("overlay0")
		if err != nil {
			return err
		}
		entries, err := h.NeighList(link.Attrs().Index, unix.AF_BRIDGE)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if to, ok := netip.AddrFromSlice(e.IP); ok && slices.Contains(gone.Addresses, to.Unmap()) {
				return fmt.Errorf("a FDB entry leads there: %v", e)
			}
		}
		return w.leadsTo(h, link, len(w.cluster.Nodes)-2)
	})
}

// leadsTo: as many other nodes' pods are reached through the tunnel, each by a route
// and a neighbour.
func (w *world) leadsTo(h *netlink.Handle, tunnel netlink.Link, others int) error {
	index := tunnel.Attrs().Index
	routes, err := h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{LinkIndex: index}, netlink.RT_FILTER_OIF)
	if err != nil {
		return err
	}
	neighbors, err := h.NeighList(index, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, f := range w.cluster.Families {
		ways, hops := 0, 0
		for _, r := range routes {
			if to, ok := netip.AddrFromSlice(r.Dst.IP); ok && r.Gw != nil && f.Pods.Contains(to.Unmap()) {
				ways++
			}
		}
		for _, n := range neighbors {
			if at, ok := netip.AddrFromSlice(n.IP); ok && f.Pods.Contains(at.Unmap()) {
				hops++
			}
		}
		if ways != others || hops != others {
			return fmt.Errorf("%d routes and %d neighbours of %s are on the tunnel, want %d of each", ways, hops, f.Name, others)
		}
	}
	return nil
}

// While the API server is down, pods that kubelet knows of come and go.
func TestAPIServerDown(t *testing.T) {
	w := newWorld(t)
	pods := w.onAllNodes("a")
	s := w.stream(pods)
	const node = "worker1"
	w.must(w.cluster.Kill(t.Context(), cluster.Control, cluster.APIServer))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patient)
		defer cancel()
		w.must(w.cluster.StartAPIServer(ctx)) //nolint:contextcheck // the test's own has ended
	})
	before := w.addressesOn(node)
	static := w.static(node)
	var addresses []netip.Addr
	w.eventually("addresses for a pod", func(context.Context) error {
		addresses = nil
		for a := range w.addressesOn(node) {
			if !before[a] {
				addresses = append(addresses, a)
			}
		}
		if len(addresses) != len(w.cluster.Families) {
			return fmt.Errorf("there are %v", addresses)
		}
		return nil
	})
	for _, p := range pods {
		for _, a := range addresses {
			w.eventually("its web server", func(ctx context.Context) error {
				_, err := asked(ctx, p.netns, netip.AddrPortFrom(a, webPort))
				return err
			})
		}
	}
	w.must(os.Remove(static))
	w.eventually("the pod to go, and its addresses to be free", func(context.Context) error {
		for _, a := range addresses {
			if w.addressesOn(node)[a] || w.reserved(node)[a] {
				return fmt.Errorf("%s is still there", a)
			}
		}
		return nil
	})
	s.unharmed()
}

// static gives kubelet a pod by a file.
func (w *world) static(node string) string {
	w.Helper()
	spec := server("static")
	spec.HostNetwork = false
	return w.writePod(node, &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: "static", Namespace: "default"}, Spec: spec,
	})
}
