package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/health"
	"github.com/overlay-cni/overlay-cni/pkg/host"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
	"github.com/overlay-cni/overlay-cni/pkg/underlay"
)

// syncNetwork does one round for the network: it reads the inputs, computes the
// desired state and syncs every part.
func (d *daemon) syncNetwork(context.Context) error {
	d.next = time.Time{}
	d.forceResync()
	// The nodes come first: a registry knows its settings as soon as its nodes.
	nodes, refused := d.registry.Nodes()
	d.shareSettings()
	c, stale := d.settings.Get()
	before := readPublication(d.runDir)
	unannounced := d.announce(c, before.last)
	if errors.Is(refused, registry.ErrNotReady) {
		unfit := d.unfit(before)
		s := waiting(unannounced, refused, unfit)
		s.Degraded = errors.Join(s.Degraded, refusedConfig(stale))
		s.Parts = d.network.Numbers()
		d.status.Set(host.RoundNetwork, s)
		d.sayWaiting(errors.Join(unannounced, refused, refusedConfig(stale)), unannounced != nil || stale != nil || d.isTrouble(refused))
		d.sayUnfit(notNew(unfit))
		return nil
	}
	s := d.syncParts(c, nodes, before)
	if errors.Is(s.Down, errNotEntered) {
		// The reason comes first.
		s.Down = errors.Join(unannounced, wrap("the registry", refused), s.Down)
		refused = nil
	}
	s.Degraded = errors.Join(s.Degraded, wrap("the registry", refused), refusedConfig(stale))
	s.Parts = d.network.Numbers()
	d.status.Set(host.RoundNetwork, s)
	if errors.Is(s.Down, host.ErrRunDirGone) {
		d.end(s.Down)
	}
	if r, ok := registry.As[registry.Reporter](d.registry); ok {
		r.ReportNetwork(registry.Report{Down: s.Down, Trouble: ownTrouble(s.Degraded)})
	}
	return errors.Join(s.Down, s.Degraded)
}

// forceResync makes a round read everything, once in each resync interval. The
// other rounds rely on notifications.
func (d *daemon) forceResync() {
	if now := time.Now(); now.Sub(d.resynced) >= d.resync {
		d.resynced = now
		d.network.ForceResync()
		d.underlay.Forget()
	}
}

func (d *daemon) shareSettings() {
	if r, ok := registry.As[registry.Sharer](d.registry); ok {
		d.settings.Share(config.Shared{Name: "the settings in the registry", YAML: r.Settings()})
	}
}

func refusedConfig(err error) error {
	return wrap("the configuration stays as it was, because the new one is refused", err)
}

// waiting returns the status of a host whose registry has not answered since the
// daemon started. A network that an earlier daemon set up still works: pods talk, and
// the plugin connects new ones. unfit says why it may not work.
func waiting(unannounced, why, unfit error) health.Status {
	if unfit != nil || unannounced != nil {
		return health.Status{Down: errors.Join(unannounced, why, notNew(unfit))}
	}
	return health.Status{Degraded: fmt.Errorf("this host's network stays as an earlier overlayd set it up: %w", why)}
}

// unfit returns why the published network is of no use, or nil.
func (d *daemon) unfit(before publication) error {
	if before.err != nil {
		return before.err
	}
	return d.stands(before.given)
}

// stands returns an error if a device of the published network is missing or down. The
// registry's answer lets a round mend that.
func (d *daemon) stands(published nodestate.State) error {
	var errs []error
	for _, name := range []string{published.Bridge, published.Device} {
		if !d.linkIsUp(name) {
			errs = append(errs, fmt.Errorf("%s is missing or down, and can be set up again only when the registry answers", name))
		}
	}
	return errors.Join(errs...)
}

// notNew drops the error that nothing is published: a host that was never in the
// network waits for the registry and for nothing else.
func notNew(err error) error {
	if errors.Is(err, nodestate.ErrNotPublished) {
		return nil
	}
	return err
}

// sayWaiting logs that the registry has not answered yet. The round does not fail,
// because a failure would be repeated with growing waits, and the registry triggers a
// round when it answers. The round does not report the network as down either: the
// network may be up from before a restart. What becomes of that network meanwhile is for
// sayUnfit: the registry is to blame for nothing new.
func (d *daemon) sayWaiting(why error, trouble bool) {
	if !d.logged.changed("registry", why.Error()) {
		return
	}
	level := slog.LevelInfo
	if trouble {
		level = slog.LevelError
	}
	d.log.Log(context.Background(), level, "waiting for the registry, keeping the published state", "err", why)
}

// isTrouble reports whether the log has to tell an administrator of the error of a
// registry that is not ready. A registry that has only just been asked is no trouble,
// and one that logs its outages has told.
func (d *daemon) isTrouble(refused error) bool {
	_, told := registry.As[registry.OutageLogger](d.registry)
	asked := errors.Is(refused, registry.ErrAsked) || refused.Error() == registry.ErrNotReady.Error()
	return !told && !asked
}

// sayUnfit logs why the published network is of no use while the registry is awaited.
func (d *daemon) sayUnfit(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if d.logged.changed("unfit", text) && err != nil {
		d.log.Error("this host's network is down", "err", err)
	}
}

// announce passes this host's addresses to a registry in which hosts register
// themselves. It ignores the host's addresses in the registry, because they came from
// an earlier announcement.
func (d *daemon) announce(c config.Config, published nodestate.State) error {
	r, ok := registry.As[registry.Announcer](d.registry)
	if !ok {
		return nil
	}
	u, err := d.underlay.Find(underlaySpec(c, published))
	if err != nil {
		return err
	}
	r.SetAddresses(u.Addresses)
	return nil
}

// underlaySpec keeps what carries the tunnel, as the network was published last.
func underlaySpec(c config.Config, published nodestate.State) underlay.Spec {
	return underlay.Spec{
		Want: c.Underlay, Family: c.UnderlayFamily, Ours: []string{c.Bridge, c.VXLAN.Device}, Kept: underlay.ParseKept(published.Underlay),
	}
}

// syncParts computes the desired state and syncs every part of the network.
func (d *daemon) syncParts(c config.Config, nodes []registry.Node, before publication) health.Status {
	in, lost, err := d.input(c, nodes, before.last)
	if err != nil {
		d.network.Renew() // what is missing next time, nobody may have undone
		return health.Status{Down: err}
	}
	want, renewed, peers := d.computed.desired(in)
	if renewed || d.lost != (lost != nil) {
		d.network.Renew() // with an address the kernel takes routes away
	}
	d.lost = lost != nil
	if refusal := (*host.Refusal)(nil); errors.As(peers, &refusal) {
		return health.Status{Down: errors.Join(lost, peers)}
	}
	if d.logged.changed("single-stack", want.Note) {
		d.log.Info("some nodes have single-stack pods", "nodes", cmp.Or(want.Note, "none"))
	}
	want.Given = before.given.Subnets
	down, degraded := d.network.Sync(want)
	s := health.Status{Down: errors.Join(lost, want.Unheard, down), Degraded: errors.Join(peers, degraded, d.misaddressed(in.Underlay, in.Own))}
	if want.Note != "" {
		s.Note = "some nodes have single-stack pods: " + want.Note
	}
	return s
}

// errNotEntered is for a registry in which hosts enter themselves.
var errNotEntered = errors.New("is not in the registry yet: it enters itself as soon as nothing is in the way")

// input reads the input of the desired state. It returns err if this host can't be in
// the network. lost says why the underlay can't be found; then the last one stands in
// for it, because this host's own pods can go on to talk to each other.
func (d *daemon) input(c config.Config, nodes []registry.Node, published nodestate.State) (in host.Input, lost, err error) {
	own, err := host.OwnNode(d.node, nodes)
	_, announced := registry.As[registry.Announcer](d.registry)
	if err != nil && announced {
		err = fmt.Errorf("node %q %w", d.node, errNotEntered)
	}
	if err != nil {
		// New pods must not get addresses of the subnet that this host had: the subnet
		// may belong to another host by the time this host is in the registry again.
		return host.Input{}, nil, errors.Join(err, nodestate.Withdraw(d.runDir))
	}
	spec := underlaySpec(c, published)
	spec.NodeAddrs, spec.OnLink = own.Addresses, c.DirectRouting
	u, lost := d.underlay.Find(spec)
	if lost != nil && !d.computed.valid {
		return host.Input{}, nil, lost
	}
	if lost != nil {
		u = d.computed.in.Underlay
	}
	former, left := d.moves.addresses(nodes, time.Now())
	d.again(left)
	if !c.VXLAN.AnySource {
		u = d.holdAddress(u, spec)
	}
	d.sayUnderlay(u, own)
	if err := d.movedBridge(c, published); err != nil {
		return host.Input{}, nil, err
	}
	return host.Input{
		Config: c, Own: own, Nodes: nodes, Underlay: u, Former: former,
		Claimed: published.Device == c.VXLAN.Device, Announced: announced,
	}, lost, nil
}

// holdAddress returns the underlay with the address from which the tunnel still sends,
// see moves.
func (d *daemon) holdAddress(u underlay.Underlay, spec underlay.Spec) underlay.Underlay {
	held, left := d.moves.hold(u, func(want config.Underlay) (underlay.Underlay, error) {
		spec.Want = want
		return d.underlay.Find(spec)
	}, time.Now())
	d.again(left)
	return held
}

// again asks for another round after a time; 0: for none. Of several times in a round
// the shortest counts, because that round asks again.
func (d *daemon) again(after time.Duration) {
	if at := time.Now().Add(after); after > 0 && (d.next.IsZero() || at.Before(d.next)) {
		d.next = at
	}
}

// due is after what time the next round is due without a trigger; 0: never.
func (d *daemon) due() time.Duration {
	due := d.network.Due()
	if d.next.IsZero() {
		return due
	}
	const now = time.Nanosecond
	if left := max(now, time.Until(d.next)); due == 0 || left < due {
		return left
	}
	return due
}

func (d *daemon) sayUnderlay(u underlay.Underlay, own registry.Node) {
	if !d.logged.changed("underlay", u.Name+" "+u.Address.String()) {
		return
	}
	d.log.Info("the tunnel runs over", "interface", u.Name, "address", u.Address, "mtu", u.MTU)
	if !slices.Contains(own.Addresses, u.Address) {
		d.log.Warn("the registry lacks the tunnel's address, other hosts send to another one",
			"registry", own.Addresses, "tunnel", u.Address)
	}
}

// movedBridge refuses a new name for the bridge while the old bridge exists. Both
// bridges would have the same subnet, and the host has only one route to it, so the
// pods of one bridge could not be reached.
func (d *daemon) movedBridge(c config.Config, published nodestate.State) error {
	if published.Bridge == "" || published.Bridge == c.Bridge || !d.linkExists(published.Bridge) {
		return nil
	}
	return fmt.Errorf("bridge changed to %q, but this host's pods are on %q: delete the pods and then the old bridge (ip link del %s), or set bridge back",
		c.Bridge, published.Bridge, published.Bridge)
}

// publication is what earlier rounds published. A round reads it once, at its
// beginning.
type publication struct {
	given nodestate.State // what the plugin follows now
	err   error           // why it follows nothing
	last  nodestate.State // given, or what was withdrawn; there may be none yet
}

func readPublication(dir string) publication {
	given, err := nodestate.Read(dir)
	p := publication{given: given, err: err, last: given}
	if errors.Is(err, nodestate.ErrNotPublished) {
		p.last, _ = nodestate.Last(dir)
	}
	return p
}

// computed caches the last desired state with its input, because most rounds have the
// same input as the round before.
type computed struct {
	valid bool
	in    host.Input
	want  host.Desired
	err   error
}

// desired computes the desired state. It reports whether the input is another one
// than the last time.
func (c *computed) desired(in host.Input) (want host.Desired, renewed bool, err error) {
	renewed = !c.valid || !c.in.Equal(in)
	if renewed {
		c.want, c.err = host.Compute(in)
	}
	c.in, c.valid = in, true // even an equal input, so that the older slices can be freed
	return c.want, renewed, c.err
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
