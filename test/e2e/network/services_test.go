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
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/test/e2e/internal/cluster"
)

// servicePort is of all Services here: another one than the pods'.
const servicePort = 80

const dnsPort = 53

func portNumber(n int) intstr.IntOrString { return intstr.FromInt(n) }

// service makes a Service for the pods of an app, in all families of the cluster.
func (w *world) service(name, app string, change func(*corev1.ServiceSpec)) *corev1.Service {
	w.Helper()
	policy := corev1.IPFamilyPolicyPreferDualStack
	spec := corev1.ServiceSpec{
		IPFamilyPolicy: &policy,
		Selector:       map[string]string{appLabel: app},
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

// at is the Service's address of a family.
func at(s *corev1.Service, f cluster.Family) netip.AddrPort {
	var all []netip.Addr
	for _, text := range s.Spec.ClusterIPs {
		all = append(all, netip.MustParseAddr(text))
	}
	return netip.AddrPortFrom(f.Of(all), servicePort)
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
	t.Parallel()
	w := newWorld(t)
	pods := w.onAllNodes("web")
	s := w.service("web", "web", nil)
	w.each(func(w *world, f cluster.Family) {
		for _, p := range pods {
			w.reaches(p.netns, at(s, f), pods...)
			w.reaches(w.netns(p.node), at(s, f), pods...)
			w.datagrams(p.netns, at(s, f), pods...)
		}
		seen := map[string]bool{}
		w.eventually("answers of all pods", func(ctx context.Context) error {
			name, err := asked(ctx, pods[0].netns, at(s, f))
			seen[name] = true
			if err == nil && len(seen) < len(pods) {
				err = fmt.Errorf("so far: %v", seen)
			}
			return err
		})
	})
}

// A Service has addresses of the families that it asks for, in that order; each
// of them leads to its pods, and its name to just these addresses.
func TestServiceFamilies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pods := w.onAllNodes("web")
	for i, request := range w.requests() {
		w.Run(request.String(), func(t *testing.T) {
			w := w.within(t)
			name := fmt.Sprintf("web-%d", i)
			s := w.service(name, "web", func(s *corev1.ServiceSpec) { s.IPFamilyPolicy, s.IPFamilies = &request.policy, request.asked })
			if !slices.Equal(s.Spec.IPFamilies, request.want) {
				t.Fatalf("families %v, want %v", s.Spec.IPFamilies, request.want)
			}
			for _, p := range pods {
				for _, f := range w.cluster.Families {
					w.served(p, name, s, f, pods)
				}
			}
		})
	}
}

// served: where the Service has the family, it is reached in it and has a name
// there; else not.
func (w *world) served(p pod, name string, s *corev1.Service, f cluster.Family, pods []pod) {
	w.Helper()
	if !slices.Contains(s.Spec.IPFamilies, kubeFamily(f)) {
		w.resolves(p.netns, name, f)
		return
	}
	w.reaches(p.netns, at(s, f), pods...)
	w.reaches(w.netns(p.node), at(s, f), pods...)
	w.resolves(p.netns, name, f, at(s, f).Addr())
}

// request is what a Service asks for, and what it gets.
type request struct {
	policy      corev1.IPFamilyPolicy
	asked, want []corev1.IPFamily
}

func (w request) String() string { return fmt.Sprintf("%s %v", w.policy, w.asked) }

func kubeFamily(f cluster.Family) corev1.IPFamily {
	if f.Switch.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// requests are all kinds that the cluster supports.
func (w *world) requests() []request {
	var has []corev1.IPFamily
	for _, f := range w.cluster.Families {
		has = append(has, kubeFamily(f))
	}
	all := []request{{corev1.IPFamilyPolicyPreferDualStack, nil, has}}
	for i := range has {
		one := has[i : i+1]
		all = append(all, request{corev1.IPFamilyPolicySingleStack, one, one})
	}
	if len(has) > 1 {
		turned := slices.Clone(has)
		slices.Reverse(turned)
		all = append(all, request{corev1.IPFamilyPolicyRequireDualStack, has, has}, request{corev1.IPFamilyPolicyRequireDualStack, turned, turned},
			request{corev1.IPFamilyPolicyPreferDualStack, turned, turned})
	}
	return all
}

// datagrams are answered by the UDP server of one of the pods. That may take as
// long as rules take to be set; from then on none is lost.
func (w *world) datagrams(from *sandbox.Netns, to netip.AddrPort, pods ...pod) {
	w.Helper()
	w.eventually("a datagram back from "+to.String(), func(ctx context.Context) error {
		_, err := askedByDatagram(ctx, from, to)
		return err
	})
	for range 3 {
		name, err := askedByDatagram(w.Context(), from, to)
		if err != nil || !slices.ContainsFunc(pods, func(p pod) bool { return p.name == name }) {
			w.Errorf("datagram from %s to %s: %q answers (%v), want one of %v", from.Name(), to, name, err, pods)
		}
	}
}

// askedByDatagram is the name of the pod that answers one datagram.
func askedByDatagram(ctx context.Context, from *sandbox.Netns, to netip.AddrPort) (string, error) {
	conn, err := dialIn(from)(ctx, "udp", to.String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(prompt)); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte("hostname")); err != nil {
		return "", err
	}
	answer := make([]byte, 256)
	n, err := conn.Read(answer)
	return string(answer[:n]), err
}

// A Service of one pod, asked from the same node, from another one, and by the
// pod itself, whose packets have to come back to it (hairpin).
func TestServiceOfOnePod(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	clients := w.onAllNodes("client")
	for _, c := range clients {
		name := "one-" + c.node
		p := w.onNode(name, c.node, nil)
		s := w.service(name, name, nil)
		w.each(func(w *world, f cluster.Family) {
			far := other(clients, c)
			w.reaches(p.netns, at(s, f), p)
			w.reaches(c.netns, at(s, f), p)
			w.reaches(far.netns, at(s, f), p)
			w.seesSource(c.netns, at(s, f), f.Of(c.addresses))
			w.seesSource(far.netns, at(s, f), f.Of(far.addresses))
		})
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
	t.Parallel()
	w := newWorld(t)
	pods := w.onAllNodes("web")
	s := w.service("web", "web", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort })
	web, udp := uint16(s.Spec.Ports[0].NodePort), uint16(s.Spec.Ports[1].NodePort)
	w.each(func(w *world, f cluster.Family) {
		for _, n := range w.cluster.Nodes {
			to := netip.AddrPortFrom(f.Of(n.Addresses), web)
			w.reaches(w.outside, to, pods...)
			for _, p := range pods {
				w.reaches(p.netns, to, pods...)
				w.reaches(w.netns(p.node), to, pods...)
			}
			w.datagrams(w.outside, netip.AddrPortFrom(to.Addr(), udp), pods...)
		}
	})
}

// With externalTrafficPolicy Local a node passes what comes from outside to pods
// of its own only, and these see who asked.
func TestNodePortKeepsTheSource(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pods := w.onAllNodes("web")
	s := w.service("web", "web", func(s *corev1.ServiceSpec) {
		s.Type, s.ExternalTrafficPolicy = corev1.ServiceTypeNodePort, corev1.ServiceExternalTrafficPolicyLocal
	})
	w.each(func(w *world, f cluster.Family) {
		for _, p := range pods {
			to := netip.AddrPortFrom(f.Of(p.hosts), uint16(s.Spec.Ports[0].NodePort))
			w.reaches(w.outside, to, p)
			w.seesSource(w.outside, to, f.Switch)
		}
	})
}

func TestSessionAffinity(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pods := w.onAllNodes("web")
	s := w.service("web", "web", func(s *corev1.ServiceSpec) { s.SessionAffinity = corev1.ServiceAffinityClientIP })
	w.each(func(w *world, f cluster.Family) {
		for _, p := range pods {
			w.reaches(p.netns, at(s, f), pods...)
			first, err := asked(w.Context(), p.netns, at(s, f))
			w.must(err)
			for range 20 {
				if again, err := asked(w.Context(), p.netns, at(s, f)); err != nil || again != first {
					w.Errorf("%s was answered by %s, then by %q (%v)", p, first, again, err)
				}
			}
		}
	})
}

func TestHeadlessService(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pods := w.onAllNodes("web")
	w.service("web", "web", func(s *corev1.ServiceSpec) { s.ClusterIP = corev1.ClusterIPNone })
	w.each(func(w *world, f cluster.Family) {
		var all []netip.Addr
		for _, p := range pods {
			all = append(all, f.Of(p.addresses))
		}
		for _, p := range pods {
			w.resolves(p.netns, "web", f, all...)
		}
	})
}

func TestDNSByName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pods := w.onAllNodes("web")
	s := w.service("web", "web", nil)
	w.each(func(w *world, f cluster.Family) {
		for _, p := range pods {
			w.resolves(p.netns, "web", f, at(s, f).Addr())
			w.resolves(w.netns(p.node), "web", f, at(s, f).Addr())
		}
	})
}

// resolves asks each address of the cluster's DNS, over UDP and over TCP, for a
// Service's addresses of a family.
func (w *world) resolves(from *sandbox.Netns, service string, f cluster.Family, want ...netip.Addr) {
	w.Helper()
	name := strings.Join([]string{service, w.namespace, "svc.cluster.local."}, ".")
	record := "ip6"
	if f.Switch.Is4() {
		record = "ip4"
	}
	for _, server := range w.cluster.Families {
		for _, network := range []string{"udp", "tcp"} {
			resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dialIn(from)(ctx, network, netip.AddrPortFrom(server.DNS, dnsPort).String())
			}}
			w.eventually(fmt.Sprintf("%s (%s) over %s from %s", name, record, network, from.Name()), func(ctx context.Context) error {
				got, err := resolver.LookupNetIP(ctx, record, name)
				var no *net.DNSError
				if errors.As(err, &no) && no.IsNotFound {
					err = nil
				}
				if err == nil && !slices.Equal(sorted(got), sorted(want)) {
					err = fmt.Errorf("it is %v, want %v", got, want)
				}
				return err
			})
		}
	}
}
