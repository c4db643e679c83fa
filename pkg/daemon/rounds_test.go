package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/tunnel"
	"github.com/overlay-cni/overlay-cni/pkg/cnifiles"
	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/health"
	"github.com/overlay-cni/overlay-cni/pkg/host"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/part"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
	"github.com/overlay-cni/overlay-cni/pkg/underlay"
)

// errPeer is an error about a peer alone.
var errPeer = errors.New("peer is incomplete")

// world is a daemon whose inputs are values and whose parts are fakes: "device",
// "rules" and "published", which needs both, and "ports" in the round for pods.
type world struct {
	*daemon
	t     *testing.T
	log   bytes.Buffer
	nodes []registry.Node
	// refused and stale are the errors of registry and configuration.
	refused, stale error
	config         config.Config
	carrier        underlay.Underlay
	noUnderlay     error
	reads, forgets int // of the underlay

	fail      map[string]error // by the part's name
	changes   map[string][]string
	synced    []string // names of parts, since the last round
	want      host.Desired
	resyncs   int
	reported  []registry.Report
	announced []netip.Addr
	bridges   []string // that exist
	down      []string // devices
}

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, fail: map[string]error{}, changes: map[string][]string{},
		config: config.Config{
			AntiSpoofing: true,
			NodeName:     "host-1", RunDir: t.TempDir(), Bridge: "cni0", Masquerade: true, Resync: time.Hour,
			VXLAN: tunnel.Config{Device: "overlay0", VNI: 1, Port: 4789},
		},
		carrier: underlay.Underlay{Name: "eth0", Index: 2, MTU: 1500, Address: netip.MustParseAddr("192.168.77.1")},
		nodes:   []registry.Node{node(1, "10.244.1.0/24"), node(2, "10.244.2.0/24")},
	}
	w.carrier.Addresses = []netip.Addr{w.carrier.Address}
	log := slog.New(slog.NewTextHandler(&w.log, nil))
	w.daemon = newDaemon(w.config, []part.Part[host.Desired]{
		w.part("device", host.RoundNetwork), w.part("rules", host.RoundNetwork),
		w.part("published", host.RoundNetwork, "device", "rules"), w.part("ports", host.RoundPods),
	}, log)
	w.settings, w.registry, w.underlay = w, w, w
	w.linkExists = func(name string) bool { return slices.Contains(w.bridges, name) }
	w.hasAddress = func(a netip.Addr) bool { return a == w.carrier.Address || a.Is6() }
	w.linkIsUp = func(name string) bool { return !slices.Contains(w.down, name) }
	return w
}

func node(number int, subnets ...string) registry.Node {
	n := registry.Node{Name: fmt.Sprint("host-", number), Addresses: []netip.Addr{netip.MustParseAddr(fmt.Sprint("192.168.77.", number))}}
	for _, s := range subnets {
		n.Subnets = append(n.Subnets, netip.MustParsePrefix(s))
	}
	return n
}

func (w *world) part(name, round string, needs ...string) part.Part[host.Desired] {
	return part.Part[host.Desired]{
		Name: name, Round: round, Needs: needs,
		Minor: func(err error) bool { return errors.Is(err, errPeer) || errors.Is(err, cnifiles.ErrShadowed) },
		Sync: func(want host.Desired) ([]string, error) {
			w.synced, w.want = append(w.synced, name), want
			changes := w.changes[name]
			delete(w.changes, name)
			return changes, w.fail[name]
		},
		ForceResync: func() { w.resyncs++ },
	}
}

func (w *world) Get() (config.Config, error)     { return w.config, w.stale }
func (w *world) Share(config.Shared)             {}
func (w *world) Changed() <-chan struct{}        { return nil }
func (w *world) Nodes() ([]registry.Node, error) { return w.nodes, w.refused }
func (w *world) ReportNetwork(r registry.Report) { w.reported = append(w.reported, r) }

// announcer is a world in which hosts register themselves.
type announcer struct{ *world }

func (a announcer) SetAddresses(addrs []netip.Addr) { a.announced = addrs }

func (w *world) Forget() { w.forgets++ }
func (w *world) Find(underlay.Spec) (underlay.Underlay, error) {
	w.reads++
	return w.carrier, w.noUnderlay
}

// round does a round for the network and returns its status.
func (w *world) round() health.Status {
	w.synced = nil
	if err := w.syncNetwork(w.t.Context()); err != nil {
		w.t.Logf("the round failed: %v", err)
	}
	return w.status.Statuses()[host.RoundNetwork]
}

// expect fails if a round ends otherwise: synced is the names of the parts.
func (w *world) expect(synced, down, degraded string) {
	w.t.Helper()
	s := w.round()
	if got := strings.Join(w.synced, " "); got != synced {
		w.t.Errorf("synced %q, want %q", got, synced)
	}
	for _, e := range []struct {
		got  error
		want string
	}{{s.Down, down}, {s.Degraded, degraded}} {
		if (e.got == nil) != (e.want == "") || !strings.Contains(fmt.Sprint(e.got), e.want) {
			w.t.Errorf("the status is %v, want %q", e.got, e.want)
		}
	}
}

const all = "device rules published"

func TestRound(t *testing.T) {
	broken := errors.New("broken")
	for name, tt := range map[string]struct {
		change                 func(*world)
		synced, down, degraded string
	}{
		"all is well":                   {func(*world) {}, all, "", ""},
		"a part fails":                  {func(w *world) { w.fail["device"] = broken }, "device rules", "device: broken", ""},
		"a part that is needed as well": {func(w *world) { w.fail["rules"] = broken }, "device rules", "rules: broken", ""},
		"a peer fails":                  {func(w *world) { w.fail["device"] = errPeer }, all, "", "device: peer is incomplete"},
		"a peer can't be computed":      {func(w *world) { w.nodes[1].Addresses = nil }, all, "", `peer "host-2" is left out`},
		"no family in common": {func(w *world) { w.nodes[1] = node(2, "fd44:0:0:2::/64") },
			all, "", `peer "host-2" has only IPv6 pod subnets`},
		"others leave this host out": {func(w *world) { w.nodes[0].Addresses = []netip.Addr{netip.MustParseAddr("fd77::1")} },
			all, "", "other hosts leave this one out"},
		"no underlay":                 {func(w *world) { w.noUnderlay = underlay.ErrNotFound }, "", "no usable underlay", ""},
		"not listed":                  {func(w *world) { w.nodes = w.nodes[1:] }, "", `node "host-1" is not in the registry`, ""},
		"no subnet":                   {func(w *world) { w.nodes[0].Subnets = nil }, "", "has no pod subnet yet", ""},
		"too large an MTU":            {func(w *world) { w.config.MTU = 1499 }, "", "mtu 1499 is too large", ""},
		"a newer registry is refused": {func(w *world) { w.refused = broken }, all, "", "the registry: broken"},
		"a newer configuration is refused": {func(w *world) { w.stale = broken },
			all, "", "the configuration stays as it was, because the new one is refused: broken"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			tt.change(w)
			w.expect(tt.synced, tt.down, tt.degraded)
			if len(w.reported) != 1 || (w.reported[0].Down == nil) != (tt.down == "") {
				t.Errorf("the registry was told %v", w.reported)
			}
		})
	}
}

// Without the underlay this host's own pods can still talk to each other, so the rest is
// mended, as the registry and the configuration say now.
func TestRoundWithoutTheUnderlay(t *testing.T) {
	w := newWorld(t)
	w.expect(all, "", "")
	carrier := w.want.Published.Underlay
	lost := errors.New("eth0 has lost 192.168.77.1")
	w.noUnderlay, w.carrier = lost, underlay.Underlay{}
	w.nodes = append(slices.Clone(w.nodes), node(3, "10.244.3.0/24"))
	w.hasAddress = func(netip.Addr) bool { return true }
	w.expect(all, lost.Error(), "")
	if len(w.want.Tunnel.Routes) != 2 || w.want.Published.Underlay != carrier {
		t.Errorf("the desired state is %+v", w.want)
	}
	w.fail["rules"] = errors.New("broken")
	w.expect("device rules", "broken", "")
	w.nodes = w.nodes[1:]
	w.expect("", `node "host-1" is not in the registry`, "")
}

// Other hosts drop what comes from an address that the registry lacks.
func TestRoundWithAnUnlistedSource(t *testing.T) {
	w := newWorld(t)
	w.nodes[0].Addresses = addrs("192.168.77.7")
	w.expect(all, "so other hosts drop its packets", errAddress.Error())
	w.nodes = w.nodes[:1]
	w.expect(all, "", "so other hosts drop its packets")
}

// However many rounds there are meanwhile, a former address has one more at its end.
func TestOneRoundAfterAMove(t *testing.T) {
	w := newWorld(t)
	w.expect(all, "", "")
	if due := w.due(); due != 0 {
		t.Errorf("nothing moved, but a round is due after %s", due)
	}
	w.nodes = slices.Clone(w.nodes)
	w.nodes[1].Addresses = addrs("192.168.77.22")
	var last time.Time
	for range 3 {
		w.expect(all, "", "")
		due := w.due()
		if due <= 0 || due > keepAddress {
			t.Errorf("the next round is due after %s", due)
		}
		if at := w.next; !last.IsZero() && at.Sub(last).Abs() > keepAddress/10 {
			t.Errorf("the next round moved from %s to %s", last, at)
		}
		last = w.next
	}
	w.nodes = w.nodes[:1]
	w.expect(all, "", "")
	if due := w.due(); due != 0 {
		t.Errorf("the node is gone, but a round is due after %s", due)
	}
}

// Before the registry's first answer a round changes nothing, and does not report the
// network as down: the network may be up from before a restart.
func TestRoundBeforeTheRegistryIsReady(t *testing.T) {
	w := newWorld(t)
	w.registry = announcer{w}
	w.nodes, w.refused = nil, registry.ErrNotReady
	for range 3 {
		w.expect("", registry.ErrNotReady.Error(), "")
	}
	if err := w.syncNetwork(t.Context()); err != nil || len(w.reported) != 0 {
		t.Errorf("the round ends with %v, the registry was told %v", err, w.reported)
	}
	if n := strings.Count(w.log.String(), "waiting for the registry"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, w.log.String())
	}
	if !slices.Equal(w.announced, w.carrier.Addresses) {
		t.Errorf("announced %v", w.announced)
	}
}

// Whoever starts a host sees at once that something is refused or does not answer.
func TestTroubleBeforeTheRegistryIsReady(t *testing.T) {
	for name, change := range map[string]func(*world){
		"no answer":           func(w *world) { w.refused = fmt.Errorf("%w: no route to host", registry.ErrNotReady) },
		"refused settings":    func(w *world) { w.stale = errors.New("mtu is wrong") },
		"nothing to announce": func(w *world) { w.noUnderlay = underlay.ErrNotFound },
	} {
		w := newWorld(t)
		w.registry = announcer{w}
		w.nodes, w.refused = nil, registry.ErrNotReady
		w.round()
		if log := w.log.String(); strings.Contains(log, "level=ERROR") {
			t.Errorf("a registry that was only just asked is an error:\n%s", log)
		}
		change(w)
		w.round()
		if log := w.log.String(); !strings.Contains(log, "level=ERROR") {
			t.Errorf("%s is no error:\n%s", name, log)
		}
	}
}

// narrator is a world whose registry logs its outages.
type narrator struct{ *world }

func (narrator) LogsOutages() {}

func TestAnOutageIsLoggedByTheRegistryOrTheRound(t *testing.T) {
	for _, told := range []bool{false, true} {
		w := newWorld(t)
		if told {
			w.registry = narrator{w}
		}
		w.nodes, w.refused = nil, fmt.Errorf("%w: no route to host", registry.ErrNotReady)
		w.round()
		if log := w.log.String(); strings.Contains(log, "level=ERROR") == told || !strings.Contains(log, "waiting for the registry") {
			t.Errorf("logged by the registry: %v, logged by the round:\n%s", told, log)
		}
	}
}

// Where hosts enter themselves, why this one has not stands before that it has not.
func TestTheReasonComesBeforeTheMissingEntry(t *testing.T) {
	w := newWorld(t)
	w.registry = announcer{w}
	w.nodes, w.refused = w.nodes[1:], errors.New("no subnet is free")
	s := w.round()
	if got, want := fmt.Sprint(s.Down), "the registry: no subnet is free\nnode \"host-1\" is not in the registry yet"; !strings.HasPrefix(got, want) || s.Degraded != nil {
		t.Errorf("got  %s, %v\nwant %s", got, s.Degraded, want)
	}
}

// A start is nothing to worry about, and a registry that can't be reached is.
func TestHowWaitingIsLogged(t *testing.T) {
	for refused, level := range map[error]string{
		registry.ErrNotReady: "INFO",
		fmt.Errorf("%w: %w for x", registry.ErrNotReady, registry.ErrAsked): "INFO",
		fmt.Errorf("%w: no route to x", registry.ErrNotReady):               "ERROR",
	} {
		w := newWorld(t)
		w.nodes, w.refused = nil, refused
		w.round()
		if log := w.log.String(); !strings.Contains(log, "level="+level+` msg="waiting for the registry`) {
			t.Errorf("%v: logged\n%s", refused, log)
		}
	}
}

// A daemon that is restarted while the registry is away finds a network that works.
func TestRoundBeforeTheRegistryIsReadyAgain(t *testing.T) {
	w := newWorld(t)
	published := nodestate.State{Node: "host-1", Subnets: w.nodes[0].Subnets, MTU: 1450, Bridge: "cni0", Device: "overlay0"}
	if _, err := nodestate.Sync(w.runDir, published); err != nil {
		t.Fatal(err)
	}
	w.nodes, w.refused = nil, fmt.Errorf("%w: no route to host", registry.ErrNotReady)
	w.expect("", "", "this host's network stays as an earlier overlayd set it up: "+w.refused.Error())
	for _, device := range []string{"cni0", "overlay0"} {
		w.down = []string{device}
		for range 2 {
			w.expect("", device+" is missing or down", "")
		}
		if n := strings.Count(w.log.String(), "level=ERROR msg=\"this host's network is down\" err=\""+device); n != 1 {
			t.Errorf("%s is logged %d times:\n%s", device, n, &w.log)
		}
	}
	w.down = nil
	w.expect("", "", "this host's network stays as an earlier overlayd set it up")
	if n := strings.Count(w.log.String(), "waiting for the registry"); n != 1 {
		t.Errorf("that it waits is logged %d times:\n%s", n, &w.log)
	}
	w.registry, w.noUnderlay = announcer{w}, underlay.ErrNotFound
	w.expect("", underlay.ErrNotFound.Error(), "")
	w.noUnderlay = nil
	if err := nodestate.Withdraw(w.runDir); err != nil {
		t.Fatal(err)
	}
	w.expect("", w.refused.Error(), "")
	if len(w.reported) != 0 {
		t.Errorf("the registry was told %v", w.reported)
	}
}

// A wrong address of this host, and another network's configuration, are what its Node
// says about them. Nothing about other hosts is.
func TestRoundReportsWhatConcernsThisHost(t *testing.T) {
	const wrong = "other hosts send to an address that this host doesn't have: the registry says 192.168.77.7, the tunnel uses 192.168.77.1 on eth0"
	for name, tt := range map[string]struct {
		change func(*world)
		want   string // what is reported
		down   bool   // it is not heard by others
	}{
		"all is well":                   {func(*world) {}, "", false},
		"a wrong address":               {func(w *world) { w.nodes[0].Addresses = addrs("192.168.77.7") }, wrong, true},
		"one of two families":           {func(w *world) { w.nodes[0].Addresses = addrs("fd77::1", "192.168.77.7") }, wrong, true},
		"an address that is translated": {func(w *world) { w.nodes[0].Addresses, w.nodes[0].NAT = addrs("192.168.77.7"), true }, "", false},
		"of a host that registers itself": {func(w *world) {
			w.nodes[0].Addresses, w.registry = addrs("192.168.77.7"), announcer{w}
		}, "", true},
		"another configuration": {func(w *world) { w.fail["device"] = fmt.Errorf("%w: 05-x", cnifiles.ErrShadowed) },
			"device: " + cnifiles.ErrShadowed.Error() + ": 05-x", false},
		"a peer":             {func(w *world) { w.nodes[1].Addresses = nil }, "", false},
		"a refused registry": {func(w *world) { w.refused = errors.New("node b") }, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			tt.change(w)
			s := w.round()
			r := w.reported[len(w.reported)-1]
			if got := fmt.Sprint(r.Trouble); (r.Down != nil) != tt.down || (r.Trouble == nil) != (tt.want == "") || !strings.HasPrefix(got, tt.want) && tt.want != "" {
				t.Errorf("reported %+v", r)
			}
			if tt.want != "" && !strings.Contains(fmt.Sprint(s.Degraded), tt.want) {
				t.Errorf("the status is %v", s.Degraded)
			}
		})
	}
}

func addrs(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

// A host that leaves the registry gives its pods no more addresses.
func TestRoundWithdrawsWhatWasPublished(t *testing.T) {
	w := newWorld(t)
	if _, err := nodestate.Sync(w.runDir, nodestate.State{Node: "host-1", Subnets: w.nodes[0].Subnets, MTU: 1450, Bridge: "cni0"}); err != nil {
		t.Fatal(err)
	}
	w.nodes = w.nodes[1:]
	w.round()
	if _, err := nodestate.Read(w.runDir); !errors.Is(err, nodestate.ErrNotPublished) {
		t.Errorf("read: %v", err)
	}
	if _, err := nodestate.Last(w.runDir); err != nil {
		t.Errorf("the names of the devices are lost: %v", err)
	}
}

func TestRoundKnowsWhatWasPublished(t *testing.T) {
	w := newWorld(t)
	published := nodestate.State{Node: "host-1", Subnets: w.nodes[0].Subnets, MTU: 1450, Bridge: "old", Device: "overlay0"}
	if _, err := nodestate.Sync(w.runDir, published); err != nil {
		t.Fatal(err)
	}
	w.bridges = []string{"old"}
	w.expect("", `bridge changed to "cni0", but this host's pods are on "old"`, "")
	w.bridges = nil
	w.expect(all, "", "")
	if !w.want.Tunnel.Device.Claimed {
		t.Error("the device's name is not claimed")
	}
}

func TestWhatIsLoggedOnce(t *testing.T) {
	w := newWorld(t)
	w.changes["device"] = []string{"set up overlay0"}
	for range 3 {
		w.round()
	}
	w.nodes = []registry.Node{node(1, "10.244.1.0/24", "fd44:0:0:1::/64"), node(2, "10.244.2.0/24")}
	for range 3 {
		if s := w.round(); s.Note != "some nodes have single-stack pods: IPv4 only: host-2" {
			t.Errorf("note: %q", s.Note)
		}
	}
	w.nodes = w.nodes[:1]
	w.carrier.Address = netip.MustParseAddr("192.168.77.9")
	w.round()
	w.round()
	for line, want := range map[string]int{
		`msg="changed the host" part=device changes="set up overlay0"`:             1,
		`msg="the tunnel runs over" interface=eth0 address=192.168.77.1 mtu=1500`:  1,
		`msg="the tunnel runs over" interface=eth0 address=192.168.77.9`:           1,
		`the registry lacks the tunnel's address, other hosts send to another one`: 1,
		`msg="some nodes have single-stack pods" nodes="IPv4 only: host-2"`:        1,
		`msg="some nodes have single-stack pods" nodes=none`:                       1,
	} {
		if n := strings.Count(w.log.String(), line); n != want {
			t.Errorf("%d times %s in:\n%s", n, line, w.log.String())
		}
	}
}

// Between two resyncs, parts and underlay may rely on notifications.
func TestForceResyncOnceInAnInterval(t *testing.T) {
	w := newWorld(t)
	for range 3 {
		w.round()
	}
	const parts = 3
	if w.resyncs != parts || w.forgets != 1 {
		t.Errorf("at the start %d parts read everything, and the underlay is forgotten %d times", w.resyncs, w.forgets)
	}
	w.resynced = time.Now().Add(-w.resync)
	w.round()
	w.round()
	if w.resyncs != 2*parts || w.forgets != 2 {
		t.Errorf("after an interval %d parts read everything, and the underlay is forgotten %d times", w.resyncs, w.forgets)
	}
}

// A part that another program contests is left alone by rounds that follow from
// notifications. It makes the host degraded, but the round did not fail. Another
// desired state is applied at once, and so is the one after a time without any.
func TestAContestedPart(t *testing.T) {
	for name, change := range map[string]func(*world){
		"another peer":      func(w *world) { w.nodes = append(slices.Clone(w.nodes), node(3, "10.244.3.0/24")) },
		"another setting":   func(w *world) { w.config.Masquerade = false },
		"another underlay":  func(w *world) { w.carrier.MTU = 1400 },
		"no underlay first": func(w *world) { w.noUnderlay = underlay.ErrNotFound; w.round(); w.noUnderlay = nil },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			fight := func() {
				w.changes["device"] = []string{"delete address 10.9.9.9/32"}
				if s := w.round(); s.Down != nil || s.Degraded != nil {
					t.Errorf("the status is %+v", s)
				}
			}
			for range 6 {
				fight()
			}
			fight()
			if got := strings.Join(w.synced, " "); got != "rules published" {
				t.Errorf("synced %q", got)
			}
			if _, text := w.status.Ready(); !strings.Contains(text, "network: degraded since") || !strings.Contains(text, ": device: another program undoes") ||
				!strings.Contains(text, "delete address 10.9.9.9/32 (4 times since") {
				t.Errorf("the status is:\n%s", text)
			}
			if due := w.network.Due(); due <= 0 || due > time.Second {
				t.Errorf("the next round is due after %s", due)
			}
			change(w)
			w.expect(all, "", "")
		})
	}
}

func TestNumbersAreInTheStatus(t *testing.T) {
	w := newWorld(t)
	w.fail["rules"] = errors.New("broken")
	w.changes["device"] = []string{"x", "y"}
	w.round()
	s := w.round()
	got := map[string][2]int{}
	for _, n := range s.Parts {
		got[n.Part] = [2]int{n.Changes, n.Failures}
	}
	if want := map[string][2]int{"device": {2, 0}, "rules": {0, 2}, "published": {0, 0}}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// The desired state follows from the input, whatever it was in the round before.
func TestComputedFollowsTheInput(t *testing.T) {
	w := newWorld(t)
	var c computed
	in := func() host.Input {
		return host.Input{Config: w.config, Own: w.nodes[0], Nodes: w.nodes, Underlay: w.carrier}
	}
	for _, change := range []func(){
		func() {},
		func() {},
		func() { w.nodes = append(slices.Clone(w.nodes), node(3, "10.244.3.0/24")) },
		func() { w.nodes = slices.Clone(w.nodes) },
		func() {
			w.nodes = slices.Clone(w.nodes)
			w.nodes[1].Addresses = []netip.Addr{netip.MustParseAddr("192.168.77.22")}
		},
		func() { w.config.MTU = 1499 },
		func() {
			w.config.MTU = 0
			w.config.NoMasqueradeTo = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
		},
		func() { w.carrier.MTU = 1400 },
		func() { w.nodes = w.nodes[:1] },
	} {
		change()
		got, _, err := c.desired(in())
		want, wantErr := host.Compute(in())
		if !reflect.DeepEqual(got, want) || fmt.Sprint(err) != fmt.Sprint(wantErr) {
			t.Errorf("got  %+v, %v\nwant %+v, %v", got, err, want, wantErr)
		}
	}
}

func TestRoundForPods(t *testing.T) {
	w := newWorld(t)
	sync := func() (health.Status, error) {
		w.synced = nil
		err := w.syncPods(t.Context())
		return w.status.Statuses()[host.RoundPods], err
	}
	if _, err := sync(); err != nil || len(w.synced) != 0 {
		t.Errorf("nothing is published: %v, synced %v", err, w.synced)
	}
	if _, ok := w.status.Statuses()[host.RoundPods]; ok {
		t.Error("a host that never had pods has a status of them")
	}
	published := nodestate.State{Node: "host-1", Subnets: w.nodes[0].Subnets, MTU: 1400, Bridge: "cni0"}
	if _, err := nodestate.Sync(w.runDir, published); err != nil {
		t.Fatal(err)
	}
	w.fail["ports"] = errPeer
	s, err := sync()
	if !errors.Is(err, errPeer) || s.Down != nil || !errors.Is(s.Degraded, errPeer) || len(s.Parts) != 1 {
		t.Errorf("a pod's error: %v, %+v", err, s)
	}
	if b := w.want.Bridge; b.Name != "cni0" || b.MTU != 1400 || len(b.Gateways) != 1 || b.Gateways[0].String() != "10.244.1.1/24" {
		t.Errorf("the bridge is %+v", b)
	}
	if err := os.WriteFile(filepath.Join(w.runDir, nodestate.FileName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := sync(); err == nil || s.Down != nil || s.Degraded == nil || len(w.synced) != 0 {
		t.Errorf("a damaged file: %v, %+v", err, s)
	}
}
