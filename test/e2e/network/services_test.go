package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/overlay-cni/overlay-cni/internal/sandbox"
)

// servicePort is of all Services here: another one than the pods'.
const servicePort = 80

var dns = netip.MustParseAddrPort("10.96.0.10:53")

func portNumber(n int) intstr.IntOrString { return intstr.FromInt(n) }

// service makes a Service for the pods of an app.
func (w *world) service(name, app string, change func(*corev1.ServiceSpec)) *corev1.Service {
	w.Helper()
	spec := corev1.ServiceSpec{
		Selector: map[string]string{appLabel: app},
		Ports: []corev1.ServicePort{
			{Name: "web", Port: servicePort, TargetPort: portNumber(webPort)},
			{Name: "udp", Port: servicePort, TargetPort: portNumber(udpPort), Protocol: corev1.ProtocolUDP},
		},
	}
	if change != nil {
		change(&spec)
	}
	s, err := w.client.CoreV1().Services(w.namespace).Create(w.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: w.namespace}, Spec: spec,
	}, metav1.CreateOptions{})
	w.must(err)
	return s
}

func at(s *corev1.Service) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(s.Spec.ClusterIP), servicePort)
}

// asked is whose name a web server gives.
func asked(ctx context.Context, from *sandbox.Netns, to netip.AddrPort) (string, error) {
	return get(ctx, from, to, "/hostname")
}

// reaches waits until kube-proxy on the client's node knows the Service, and
// then wants the answer of a pod at once, several times.
func (w *world) reaches(from *sandbox.Netns, to netip.AddrPort, pods ...pod) {
	w.Helper()
	w.eventually(fmt.Sprintf("an answer from %s", to), func(ctx context.Context) error {
		_, err := asked(ctx, from, to)
		return err
	})
	for range 5 {
		name, err := asked(w.Context(), from, to)
		if err != nil || !slices.ContainsFunc(pods, func(p pod) bool { return p.name == name }) {
			w.Errorf("from %s to %s: %q answers (%v), want one of %v", from.Name(), to, name, err, pods)
		}
	}
}

func TestClusterIP(t *testing.T) {
	w := newWorld(t)
	pods := w.onAllNodes("web")
	s := w.service("web", "web", nil)
	for _, p := range pods {
		w.reaches(p.netns, at(s), pods...)
		w.reaches(w.netns(p.node), at(s), pods...)
		w.datagram(p.netns, at(s))
	}
	seen := map[string]bool{}
	w.eventually("answers of all pods", func(ctx context.Context) error {
		name, err := asked(ctx, pods[0].netns, at(s))
		seen[name] = true
		if err == nil && len(seen) < len(pods) {
			err = fmt.Errorf("so far: %v", seen)
		}
		return err
	})
}

// datagram asks the pods' UDP server for its name.
func (w *world) datagram(from *sandbox.Netns, to netip.AddrPort) {
	w.Helper()
	w.eventually("a datagram back from "+to.String(), func(ctx context.Context) error {
		conn, err := dialIn(from)(ctx, "udp", to.String())
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(deadline(ctx)); err != nil {
			return err
		}
		if _, err := conn.Write([]byte("hostname")); err != nil {
			return err
		}
		answer := make([]byte, 256)
		_, err = conn.Read(answer)
		return err
	})
}

// A Service of one pod, asked from the same node, from another one, and by the
// pod itself, whose packets have to come back to it (hairpin).
func TestServiceOfOnePod(t *testing.T) {
	w := newWorld(t)
	clients := w.onAllNodes("client")
	for _, c := range clients {
		name := "one-" + c.node
		p := w.onNode(name, c.node, nil)
		s := w.service(name, name, nil)
		w.reaches(p.netns, at(s), p)
		w.reaches(c.netns, at(s), p)
		w.reaches(other(clients, c).netns, at(s), p)
		w.seesSource(c.netns, at(s), c.address)
		w.seesSource(other(clients, c).netns, at(s), other(clients, c).address)
	}
}

// seesSource: the server sees the client's own address.
func (w *world) seesSource(from *sandbox.Netns, to netip.AddrPort, want netip.Addr) {
	w.Helper()
	text, err := get(w.Context(), from, to, "/clientip")
	got, parseErr := netip.ParseAddrPort(text)
	if err := errors.Join(err, parseErr); err != nil || got.Addr().Unmap() != want {
		w.Errorf("%s saw the client as %q (%v), want %s", to, text, err, want)
	}
}

func TestNodePort(t *testing.T) {
	w := newWorld(t)
	pods := w.onAllNodes("web")
	s := w.service("web", "web", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort })
	port := uint16(s.Spec.Ports[0].NodePort)
	for _, n := range w.cluster.Nodes {
		to := netip.AddrPortFrom(n.Address, port)
		w.reaches(w.outside, to, pods...)
		for _, p := range pods {
			w.reaches(p.netns, to, pods...)
			w.reaches(w.netns(p.node), to, pods...)
		}
		w.datagram(w.outside, netip.AddrPortFrom(n.Address, uint16(s.Spec.Ports[1].NodePort)))
	}
}

// With externalTrafficPolicy Local a node passes what comes from outside to pods
// of its own only, and these see who asked.
func TestNodePortKeepsTheSource(t *testing.T) {
	w := newWorld(t)
	pods := w.onAllNodes("web")
	s := w.service("web", "web", func(s *corev1.ServiceSpec) {
		s.Type, s.ExternalTrafficPolicy = corev1.ServiceTypeNodePort, corev1.ServiceExternalTrafficPolicyLocal
	})
	for _, p := range pods {
		to := netip.AddrPortFrom(p.host, uint16(s.Spec.Ports[0].NodePort))
		w.reaches(w.outside, to, p)
		w.seesSource(w.outside, to, netip.MustParseAddr("192.168.88.254"))
	}
}

func TestSessionAffinity(t *testing.T) {
	w := newWorld(t)
	pods := w.onAllNodes("web")
	s := w.service("web", "web", func(s *corev1.ServiceSpec) { s.SessionAffinity = corev1.ServiceAffinityClientIP })
	for _, p := range pods {
		w.reaches(p.netns, at(s), pods...)
		first, err := asked(t.Context(), p.netns, at(s))
		w.must(err)
		for range 20 {
			if again, err := asked(t.Context(), p.netns, at(s)); err != nil || again != first {
				t.Errorf("%s was answered by %s, then by %q (%v)", p, first, again, err)
			}
		}
	}
}

func TestHeadlessService(t *testing.T) {
	w := newWorld(t)
	pods := w.onAllNodes("web")
	w.service("web", "web", func(s *corev1.ServiceSpec) { s.ClusterIP = corev1.ClusterIPNone })
	for _, p := range pods {
		w.resolves(p.netns, "web", addresses(pods)...)
	}
}

func TestDNSByName(t *testing.T) {
	w := newWorld(t)
	pods := w.onAllNodes("web")
	s := w.service("web", "web", nil)
	for _, p := range pods {
		w.resolves(p.netns, "web", at(s).Addr())
		w.resolves(w.netns(p.node), "web", at(s).Addr())
	}
}

func addresses(pods []pod) []netip.Addr {
	var all []netip.Addr
	for _, p := range pods {
		all = append(all, p.address)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

// resolves asks the cluster's DNS, over UDP and over TCP.
func (w *world) resolves(from *sandbox.Netns, service string, want ...netip.Addr) {
	w.Helper()
	for _, network := range []string{"udp", "tcp"} {
		resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialIn(from)(ctx, network, dns.String())
		}}
		name := strings.Join([]string{service, w.namespace, "svc.cluster.local."}, ".")
		w.eventually(fmt.Sprintf("%s over %s from %s", name, network, from.Name()), func(ctx context.Context) error {
			got, err := resolver.LookupNetIP(ctx, "ip4", name)
			slices.SortFunc(got, netip.Addr.Compare)
			if err == nil && !slices.Equal(got, want) {
				err = fmt.Errorf("it is %v, want %v", got, want)
			}
			return err
		})
	}
}
