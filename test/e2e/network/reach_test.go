package network

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/sandbox"
)

func deadline(ctx context.Context) time.Time {
	d := time.Now().Add(prompt)
	if ctxDeadline, ok := ctx.Deadline(); ok && ctxDeadline.Before(d) {
		return ctxDeadline
	}
	return d
}

// mesh: every pod reaches every pod, itself too, under its own address; every
// node reaches every pod; and every pod every node.
func (w *world) mesh(pods []pod) {
	w.Helper()
	for _, to := range pods {
		for _, from := range pods {
			w.seesSource(from.netns, to.web(), from.address)
			w.pings(from.netns, to.address)
			w.pings(from.netns, to.host)
		}
		for _, n := range w.cluster.Nodes {
			if _, err := asked(w.Context(), w.netns(n.Name), to.web()); err != nil {
				w.Errorf("from node %s to %s: %v", n.Name, to, err)
			}
			w.pings(w.netns(n.Name), to.address)
		}
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
	w := newWorld(t)
	w.mesh(append(w.onAllNodes("a"), w.onAllNodes("b")...))
}

// kubelet listens on its node's address; a pod reaches that of its own node and
// of others.
func TestPodsReachNodes(t *testing.T) {
	w := newWorld(t)
	for _, p := range w.onAllNodes("client") {
		for _, n := range w.cluster.Nodes {
			conn, err := dialIn(p.netns)(t.Context(), "tcp", netip.AddrPortFrom(n.Address, 10250).String())
			if err != nil {
				t.Errorf("from %s to kubelet on %s: %v", p, n.Name, err)
				continue
			}
			_ = conn.Close()
		}
	}
}

func TestUDPBetweenPods(t *testing.T) {
	w := newWorld(t)
	pods := append(w.onAllNodes("a"), w.onAllNodes("b")...)
	for _, to := range pods {
		for _, from := range pods {
			w.datagram(from.netns, netip.AddrPortFrom(to.address, udpPort))
		}
	}
}

// A packet of the pods' MTU passes whole, in both directions and on all ways; one
// byte more is refused at once, where it is sent.
func TestMTUEdge(t *testing.T) {
	w := newWorld(t)
	pods := append(w.onAllNodes("a"), w.onAllNodes("b")...)
	const (
		mtu     = 1500 - 50    // Ethernet's, less VXLAN's overhead over IPv4
		payload = mtu - 20 - 8 // of a UDP datagram over IPv4
	)
	for _, to := range pods {
		echo, err := probe.ServeEcho(to.netns, netip.AddrPortFrom(to.address, echoPort))
		w.must(err)
		for _, from := range pods {
			if from.name == to.name {
				continue
			}
			if err := whole(t.Context(), from.netns, echo.Addr, payload); err != nil {
				t.Errorf("%d bytes from %s to %s: %v", payload, from, to, err)
			}
			if err := whole(t.Context(), from.netns, echo.Addr, payload+1); !errors.Is(err, unix.EMSGSIZE) {
				t.Errorf("%d bytes from %s to %s: %v, want %v", payload+1, from, to, err, unix.EMSGSIZE)
			}
		}
		w.must(echo.Close())
	}
}

// whole sends a datagram that may not be fragmented to an echo server.
func whole(ctx context.Context, from *sandbox.Netns, to netip.AddrPort, size int) error {
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		controlErr := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		})
		return errors.Join(err, controlErr)
	}}
	var conn net.Conn
	err := from.Do(func() (err error) {
		conn, err = dialer.DialContext(ctx, "udp", to.String())
		return err
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	question, answer := make([]byte, size), make([]byte, size+1)
	_, _ = rand.Read(question) // never fails
	if err := conn.SetDeadline(deadline(ctx)); err != nil {
		return err
	}
	if _, err := conn.Write(question); err != nil {
		return err
	}
	n, err := conn.Read(answer)
	if err == nil && !bytes.Equal(answer[:n], question) {
		err = fmt.Errorf("%d other bytes came back", n)
	}
	return err
}

func TestHostPorts(t *testing.T) {
	w := newWorld(t)
	clients := w.onAllNodes("client")
	const port = 18080
	p := w.onNode("host-port", "worker1", func(s *corev1.PodSpec) {
		s.Containers[0].Ports = []corev1.ContainerPort{
			{ContainerPort: webPort, HostPort: port}, {ContainerPort: udpPort, HostPort: port, Protocol: corev1.ProtocolUDP},
		}
	})
	to := netip.AddrPortFrom(p.host, port)
	from := map[string]*sandbox.Netns{"outside": w.outside, "the pod itself": p.netns}
	for _, c := range clients {
		from["pod "+c.String()] = c.netns
		from["node "+c.node] = w.netns(c.node)
	}
	for name, ns := range from {
		t.Run(name, func(t *testing.T) {
			if got, err := asked(t.Context(), ns, to); err != nil || got != p.name {
				t.Errorf("%q answers (%v), want %s", got, err, p.name)
			}
			w.datagram(ns, to)
		})
	}
	if got, err := asked(t.Context(), w.netns(p.node), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)); err != nil || got != p.name {
		t.Errorf("127.0.0.1 on the node: %q answers (%v), want %s", got, err, p.name)
	}
	w.must(w.client.CoreV1().Pods(w.namespace).Delete(t.Context(), p.name, now))
	w.eventually("the host port to be closed", func(ctx context.Context) error {
		if _, err := asked(ctx, w.outside, to); !errors.Is(err, unix.ECONNREFUSED) {
			return fmt.Errorf("error %w, want %w", err, unix.ECONNREFUSED)
		}
		return nil
	})
}
