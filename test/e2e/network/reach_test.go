package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/pkg/vxlan"
	"github.com/overlay-cni/overlay-cni/test/e2e/internal/cluster"
)

// mesh: every pod reaches every pod, itself too, under its own address; every
// node reaches every pod; and every pod every node, and what is outside, where
// nobody knows the way to a pod's address.
func (w *world) mesh(pods []pod) {
	w.Helper()
	for _, f := range w.cluster.Families {
		for _, to := range pods {
			w.reached(f, to, pods)
		}
	}
}

func (w *world) reached(f cluster.Family, to pod, pods []pod) {
	w.Helper()
	address := f.Of(to.addresses)
	w.pings(to.netns, f.Switch)
	for _, from := range pods {
		w.seesSource(from.netns, to.at(f, webPort), f.Of(from.addresses))
		w.pings(from.netns, address)
		w.pings(from.netns, f.Of(to.hosts))
	}
	for _, n := range w.cluster.Nodes {
		if _, err := asked(w.Context(), w.netns(n.Name), to.at(f, webPort)); err != nil {
			w.Errorf("from node %s to %s: %v", n.Name, to, err)
		}
		w.pings(w.netns(n.Name), address)
	}
}

func (w *world) pings(from *sandbox.Netns, to netip.Addr) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), prompt)
	defer cancel()
	if _, err := probe.Ping(ctx, from, to); err != nil {
		w.Error(err)
	}
}

func TestPodsReachEachOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mesh(append(w.onAllNodes("a"), w.onAllNodes("b")...))
}

// kubelet listens on its node's address; a pod reaches that of its own node and
// of others.
func TestPodsReachNodes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pods := w.onAllNodes("client")
	w.each(func(w *world, f cluster.Family) {
		for _, p := range pods {
			for _, n := range w.cluster.Nodes {
				conn, err := dialIn(p.netns)(w.Context(), "tcp", netip.AddrPortFrom(f.Of(n.Addresses), 10250).String())
				if err != nil {
					w.Errorf("from %s to kubelet on %s: %v", p, n.Name, err)
					continue
				}
				_ = conn.Close()
			}
		}
	})
}

func TestUDPBetweenPods(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pods := append(w.onAllNodes("a"), w.onAllNodes("b")...)
	w.each(func(w *world, f cluster.Family) {
		for _, to := range pods {
			for _, from := range pods {
				w.datagrams(from.netns, to.at(f, udpPort), to)
			}
		}
	})
}

// podMTU is what VXLAN leaves of Ethernet's 1500 bytes. Nodes send to each other
// in the cluster's first family.
func (w *world) podMTU() int { return 1500 - vxlan.Overhead(family.Of(w.cluster.Families[0].Switch)) }

// A packet of the pods' MTU passes whole, in both directions and on all ways; one
// byte more is refused at once, where it is sent.
func TestMTUEdge(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pods := append(w.onAllNodes("a"), w.onAllNodes("b")...)
	w.each(func(w *world, f cluster.Family) {
		for _, to := range pods {
			w.takesWhole(f, to, pods)
		}
	})
}

func (w *world) takesWhole(f cluster.Family, to pod, pods []pod) {
	w.Helper()
	fits := w.podMTU()
	echo, err := probe.ServeEcho(to.netns, to.at(f, echoPort))
	w.must(err)
	for _, from := range pods {
		if from.name == to.name {
			continue
		}
		if err := probe.Whole(w.Context(), from.netns, echo.Addr, fits); err != nil {
			w.Errorf("%d bytes from %s to %s: %v", fits, from, to, err)
		}
		if err := probe.Whole(w.Context(), from.netns, echo.Addr, fits+1); !errors.Is(err, unix.EMSGSIZE) {
			w.Errorf("%d bytes from %s to %s: %v, want %v", fits+1, from, to, err, unix.EMSGSIZE)
		}
	}
	w.must(echo.Close())
}

func TestHostPorts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	clients := w.onAllNodes("client")
	const port = 18080
	p := w.onNode("host-port", "worker1", func(s *corev1.PodSpec) {
		s.Containers[0].Ports = []corev1.ContainerPort{
			{ContainerPort: webPort, HostPort: port}, {ContainerPort: udpPort, HostPort: port, Protocol: corev1.ProtocolUDP},
		}
	})
	from := map[string]*sandbox.Netns{"outside": w.outside, "the pod itself": p.netns}
	for _, c := range clients {
		from["pod "+c.String()] = c.netns
		from["node "+c.node] = w.netns(c.node)
	}
	w.each(func(w *world, f cluster.Family) {
		to := netip.AddrPortFrom(f.Of(p.hosts), port)
		for name, ns := range from {
			w.answers(name, ns, to, p)
			w.datagrams(ns, to, p)
		}
		if f.Switch.Is4() { // to ::1 of a node no host port can be
			w.answers("the node itself", w.netns(p.node), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), p)
		}
	})
	w.must(w.client.CoreV1().Pods(w.namespace).Delete(t.Context(), p.name, now))
	w.each(func(w *world, f cluster.Family) {
		w.eventually("the host port to be closed", func(ctx context.Context) error {
			if _, err := asked(ctx, w.outside, netip.AddrPortFrom(f.Of(p.hosts), port)); !errors.Is(err, unix.ECONNREFUSED) {
				return fmt.Errorf("error %w, want %w", err, unix.ECONNREFUSED)
			}
			return nil
		})
	})
}

// answers: the pod answers there at once.
func (w *world) answers(name string, from *sandbox.Netns, to netip.AddrPort, p pod) {
	w.Helper()
	if got, err := asked(w.Context(), from, to); err != nil || got != p.name {
		w.Errorf("from %s to %s: %q answers (%v), want %s", name, to, got, err, p.name)
	}
}
