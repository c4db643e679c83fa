package hosts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// healthAddress is where every daemon of a test answers probes, each in the
// namespace of its host.
const healthAddress = "127.0.0.1:9479"

// withHealth serves health and turns the resync off, so that only notifications
// start rounds.
func withHealth(c *lab.Config) {
	noResync(c)
	c.DaemonArgs = append(c.DaemonArgs, "--health-address", healthAddress)
}

// httpIn connects from within a namespace.
func httpIn(ns *sandbox.Netns) *http.Client {
	dial := func(_ context.Context, network, address string) (conn net.Conn, err error) {
		err = ns.Do(func() error {
			conn, err = net.Dial(network, address)
			return err
		})
		return conn, err
	}
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}}
}

// says returns nil if the host's daemon answers a probe with this status and all
// of these words.
func says(ctx context.Context, h *lab.Host, path string, status int, words ...string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+healthAddress+path, nil)
	if err != nil {
		return err
	}
	r, err := httpIn(h.Netns()).Do(request)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	if r.StatusCode != status {
		return fmt.Errorf("%s of %s answers %d, not %d:\n%s", path, h.Name, r.StatusCode, status, text)
	}
	for _, w := range words {
		if !strings.Contains(string(text), w) {
			return fmt.Errorf("%s of %s has no word of %q:\n%s", path, h.Name, w, text)
		}
	}
	return nil
}

// alive holds at any time: a daemon that waits for others must not be restarted
// by whoever asks /healthz.
func (f *fleet) alive(ctx context.Context, h *lab.Host) {
	f.t.Helper()
	f.must(says(ctx, h, "/healthz", http.StatusOK, "ok\n"))
}

// eventuallyReady waits for a 200 in which all parts are well. The part of pods
// appears with the first pod.
func (f *fleet) eventuallyReady(ctx context.Context, h *lab.Host) {
	f.t.Helper()
	f.must(probe.Eventually(ctx, func(ctx context.Context) error {
		if says(ctx, h, "/readyz", http.StatusOK, "degraded") == nil {
			return fmt.Errorf("/readyz of %s says that it is degraded", h.Name)
		}
		return says(ctx, h, "/readyz", http.StatusOK, "network: ok\n")
	}))
}

// eventuallyDown waits for a 503 with this reason.
func (f *fleet) eventuallyDown(ctx context.Context, h *lab.Host, why ...string) {
	f.t.Helper()
	words := append([]string{"network: down since "}, why...)
	f.must(probe.Eventually(ctx, func(ctx context.Context) error {
		return says(ctx, h, "/readyz", http.StatusServiceUnavailable, words...)
	}))
	f.alive(ctx, h)
}

// /readyz names whatever keeps failing: with 503 if this host's pods can't be
// connected or reach nobody, else with 200.
func TestDaemonReadiness(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f := newIdleFleet(t, 2, m.set, withHealth, readConfig)
		f.configure("")
		a, b := f.hosts[0], f.hosts[1]
		f.must(f.lab.Register(b))
		ctx := withPatience(t)
		for _, h := range f.hosts {
			f.launch(h)
		}
		f.eventuallyReady(ctx, b)
		f.eventuallyDown(ctx, a, `node "host-a" is not in the registry`)
		f.must(f.lab.Register(a, b))
		f.eventuallyReady(ctx, a)
		f.pods = append(f.pods, f.addPod(ctx, a, "pod"), f.addPod(ctx, b, "pod"))
		for _, tt := range unreadiness(m) {
			t.Run(tt.name, func(t *testing.T) {
				f, ctx := f.sub(t), withPatience(t)
				tt.begin(f)
				f.must(probe.Eventually(ctx, func(ctx context.Context) error { return says(ctx, a, "/readyz", tt.status, tt.words...) }))
				f.alive(ctx, a)
				tt.end(f)
				f.eventuallyReady(ctx, a)
				f.must(probe.Eventually(ctx, func(ctx context.Context) error {
					return errors.Join(ping(ctx, f.pods[0], f.pods[1]), ping(ctx, f.pods[1], f.pods[0]))
				}))
			})
		}
	})
}

// trouble is a fault that begins, is reported, and ends.
type trouble struct {
	name       string
	begin, end func(*fleet)
	status     int
	words      []string
}

// unreadiness lists faults of the first of two hosts.
func unreadiness(m mode) []trouble {
	const down, degraded = http.StatusServiceUnavailable, http.StatusOK
	register := func(f *fleet) { f.must(f.lab.Register(f.hosts...)) }
	all := []trouble{
		{"the host leaves the registry", func(f *fleet) { f.must(f.lab.Register(f.hosts[1])) }, register, down,
			[]string{"network: down since ", `node "host-a" is not in the registry`}},
		{"the underlay is down", setDown("eth0"), setUnderlayUp, down,
			[]string{"network: down since ", `interface "eth0" is down: set it up`}},
		{"somebody else's device has the bridge's name", takeBridge, giveBridgeBack, down,
			[]string{"network: down since ", `cni0 is of kind "veth", not a bridge`}},
		{"an MTU that the underlay hasn't", setting("mtu: 1499"), setting(""), down,
			[]string{"network: down since ", "mtu 1499 is too large for underlay eth0"}},
		{"a mistaken configuration", setting("mtu: 1"), setting(""), degraded,
			[]string{"network: degraded since ", "the new one is refused", `mtu: "1"`}},
		{"a mistaken registry", func(f *fleet) { f.must(f.lab.WriteRegistry([]byte(malformed))) }, register, degraded,
			[]string{"network: degraded since ", "the registry: ", "malformed YAML"}},
		{"a pod that is cut off", moveOwnSubnet(m), register, degraded,
			[]string{"network: ok", "pods: degraded since ", "pod addresses are in none of this node's subnets", "lab/pod "}},
	}
	for _, subnet := range m.prefixes("10.244.9.0/24", "fd44:0:0:9::/64") {
		all = append(all, takenSubnet(subnet))
	}
	return all
}

// takenSubnet adds a peer whose subnet the host already reaches by another route.
func takenSubnet(subnet netip.Prefix) trouble {
	route := func(change func(*netlink.Handle, *netlink.Route) error) func(*fleet) {
		return func(f *fleet) {
			f.must(onLink("eth0", func(h *netlink.Handle, l netlink.Link) error {
				return change(h, &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNetOf(subnet)})
			})(f.hosts[0].Handle()))
		}
	}
	return trouble{
		name: "another device has the route to " + subnet.String() + " of a peer",
		begin: func(f *fleet) {
			route((*netlink.Handle).RouteAdd)(f)
			address := netip.MustParseAddr("192.168.77.99")
			if f.hosts[0].Addresses()[0].Is6() {
				address = netip.MustParseAddr("fd77::99")
			}
			peer := entry{"host-z", []netip.Addr{address}, []netip.Prefix{subnet}}
			f.register(append(entries(f.hosts...), peer))
		},
		end: func(f *fleet) {
			route((*netlink.Handle).RouteDel)(f)
			f.must(f.lab.Register(f.hosts...))
		},
		status: http.StatusOK,
		words:  []string{"network: degraded since ", "peers are incomplete: set route " + subnet.String(), "another device has a route to it"},
	}
}

// moveOwnSubnet gives the host other subnets than those of its pod.
func moveOwnSubnet(m mode) func(*fleet) {
	return func(f *fleet) {
		nodes := entries(f.hosts...)
		nodes[0].subnets = m.prefixes("10.244.102.0/24", "fd44:0:0:102::/64")
		f.register(nodes)
	}
}

func setting(text string) func(*fleet) { return func(f *fleet) { f.configure(text + "\n") } }

func setDown(link string) func(*fleet) {
	return func(f *fleet) { f.must(onLink(link, (*netlink.Handle).LinkSetDown)(f.hosts[0].Handle())) }
}

func setUnderlayUp(f *fleet) {
	f.must(onLink("eth0", (*netlink.Handle).LinkSetUp)(f.hosts[0].Handle()))
	f.configureUplink()
}

// takeBridge renames the other device in one step: the daemon would replace a
// bridge that is missing for a moment.
func takeBridge(f *fleet) {
	h := f.hosts[0].Handle()
	f.must(onLink("cni0", func(h *netlink.Handle, l netlink.Link) error {
		return errors.Join(h.LinkSetDown(l), h.LinkSetName(l, "cni0-old"))
	})(h))
	other := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}, PeerName: "far"}
	err := h.LinkAdd(other)
	for errors.Is(err, unix.EEXIST) { // the daemon was faster
		err = errors.Join(onLink("cni0", (*netlink.Handle).LinkDel)(h))
		if err == nil {
			err = h.LinkAdd(other)
		}
	}
	f.must(err)
}

func giveBridgeBack(f *fleet) {
	for _, name := range []string{"cni0", "cni0-old"} {
		f.must(onLink(name, (*netlink.Handle).LinkDel)(f.hosts[0].Handle()))
	}
}

// The daemon retries a lasting failure ever more slowly, even while much changes
// on the host. The retries cost next to nothing, and the log has the error once.
func TestDaemonFailureBacksOff(t *testing.T) {
	t.Parallel()
	dual(t, func(t *testing.T, m mode) {
		f := newFleet(t, 1, m.set, withHealth)
		h, ctx := f.hosts[0], withPatience(t)
		f.stop(ctx, h)
		f.must(onLink(tunnel, (*netlink.Handle).LinkDel)(h.Handle()))
		// The kernel has room for one of these.
		taken := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "vx1"}, VxlanId: 1, Port: 4789, SrcAddr: h.Addresses()[0].AsSlice()}
		f.must(h.Handle().LinkAdd(taken))
		rounds := f.watchRounds(h)
		alone := f.failsAlone(ctx, h, rounds)
		disturbed, changes := f.failsDisturbed(ctx, h, rounds)
		// A tick is 10 ms. A start takes some, a round that fails here 1 ms, and each of
		// the changes beside it 0.1 ms at most.
		const start = 20
		used, limit := f.ticks(f.processOf(h)), (start+alone+disturbed+changes/100)*dearness
		t.Logf("%d ticks of the CPU for %d rounds and %d changes beside them", used, alone+disturbed, changes)
		if used > limit {
			t.Errorf("used %d ticks, more than %d", used, limit)
		}
		log := h.Daemon().Log.String()
		if n := strings.Count(log, "level=ERROR"); n != 1 {
			t.Errorf("%d errors are logged:\n%s", n, log)
		}
		f.eventuallyDown(ctx, h, `device "vx1" has VNI 1 and port 4789: remove it with "ip link del vx1"`)
		f.must(onLink("vx1", (*netlink.Handle).LinkDel)(h.Handle()))
		f.eventuallyReady(ctx, h)
		f.must(h.Daemon().Log.Wait(ctx, "all is well again"))
	})
}

// failsAlone starts the daemon and looks at its first rounds, which come after
// pauses of 0.2, 0.4, 0.8 s and, as it is told of changes at its start, 1 s.
func (f *fleet) failsAlone(ctx context.Context, h *lab.Host, rounds *observer) (count int) {
	f.t.Helper()
	const enough = 6
	begin := time.Now()
	f.launch(h)
	// Rounds for pods read the same file, and are in the log. One that just began
	// may count here.
	for seen := 0; seen-strings.Count(h.Daemon().Log.String(), "msg=reconciled round=pods") < enough; seen++ {
		f.must(rounds.wait(ctx, 1))
	}
	if took := time.Since(begin); took < 2*time.Second {
		f.t.Errorf("%d rounds in %s", enough, took)
	}
	return enough
}

// failsDisturbed looks at some rounds while routes come and go. There is a second
// between two of them, but the first comes at any time, and one for pods that
// just began may count.
func (f *fleet) failsDisturbed(ctx context.Context, h *lab.Host, rounds *observer) (count, changes int) {
	f.t.Helper()
	const enough = 4
	pods := func() int { return strings.Count(h.Daemon().Log.String(), "msg=reconciled round=pods") }
	before := pods()
	stop, begin := f.disturb(h), time.Now()
	for seen := 0; seen-(pods()-before) < enough; seen++ {
		f.must(rounds.wait(ctx, 1))
	}
	if took := time.Since(begin); took < (enough-2)*time.Second {
		f.t.Errorf("%d rounds in %s while routes come and go", enough, took)
	}
	return enough, stop()
}
