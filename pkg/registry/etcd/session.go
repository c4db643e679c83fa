package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

// errCompacted says that etcd has discarded changes that the watch has not delivered
// yet. This happens after a long interruption. The next session lists everything.
var errCompacted = errors.New("the changes since the last one seen are compacted")

// process is what this process keeps from one session to the next.
type process struct {
	lease   clientv3.LeaseID // 0: none
	written int64            // the revision at which this process last wrote its key; 0: never
	subnets []netip.Prefix   // this host's last ones
	logged  []netip.Prefix   // the subnets in the last log line
	config  *config          // the last valid one
}

// session is one connection: list, register, watch, until something fails.
type session struct {
	*Registry
	client *clientv3.Client

	set *registry.Set // guarded by mu: Nodes may be reading it
	// hosts are the readable entries of the other hosts, by node name.
	hosts map[string]entry
	// revision is etcd's highest revision in this session.
	revision int64
	// own is the entry in this host's key; ownErr says why it can't be read.
	own    *entry
	ownErr error
	// configRevision is the revision of the configuration's key, 0 if there is none.
	// configErr says what is wrong with the configuration.
	configRevision int64
	configErr      error

	renewals <-chan *clientv3.LeaseKeepAliveResponse
	due      bool // settle has to run
	attempt  int  // how often etcd changed while this host chose its subnets
	heard    bool // something came through the watch since the last heartbeat
	asked    bool // the last heartbeat asked etcd for a sign of life
	behind   bool // the last answer was older than an earlier one
}

// session runs a session and returns the error that ended it.
func (r *Registry) session(ctx context.Context) error {
	// Without this, a watch at a member that has lost its quorum would stay silent
	// for ever.
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	client, err := connect(ctx, r.opts, r.timing)
	if err != nil {
		return err
	}
	defer client.Close()
	s := &session{Registry: r, client: client, set: registry.NewSet(), hosts: map[string]entry{}, due: true}
	if err := s.list(ctx); err != nil {
		return err
	}
	events, err := s.watch(ctx)
	if err != nil {
		return err
	}
	return s.loop(ctx, events)
}

// list reads the configuration and all nodes, at one revision.
func (s *session) list(ctx context.Context) error {
	first, end := s.keys.watched()
	var resp *clientv3.GetResponse
	err := requestOrSlow(ctx, s.timing, "list the nodes", func(ctx context.Context) (err error) {
		resp, err = s.client.Get(ctx, first, clientv3.WithRange(end))
		return err
	}, s.failFirst)
	if err != nil {
		return err
	}
	s.revision = resp.Header.Revision
	s.configErr = s.noConfig()
	for _, kv := range resp.Kvs {
		if name, ok := s.keys.nodeName(string(kv.Key)); ok {
			s.putNode(name, kv)
		} else if string(kv.Key) == s.keys.config() {
			s.putConfig(kv)
		}
	}
	return nil
}

// watch begins a watch at the revision after the list. The client's Watch has no
// timeout of its own, so watch cancels it.
func (s *session) watch(ctx context.Context) (clientv3.WatchChan, error) {
	ctx, cancel := context.WithCancel(ctx)
	slow := time.AfterFunc(s.timing.request, cancel)
	first, end := s.keys.watched()
	events := s.client.Watch(ctx, first, clientv3.WithRange(end), clientv3.WithRev(s.revision+1))
	if !slow.Stop() {
		return nil, fmt.Errorf("watch the nodes: no answer in %s", s.timing.request)
	}
	return events, nil
}

// loop applies the watch's events to the set, and settles when an event concerns
// this host.
func (s *session) loop(ctx context.Context, events clientv3.WatchChan) error {
	heartbeat := time.NewTicker(s.timing.heartbeat)
	defer heartbeat.Stop()
	again := time.NewTimer(s.timing.again)
	defer again.Stop()
	for {
		if err := s.round(ctx, again); err != nil {
			return err
		}
		err := error(nil)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case resp, open := <-events:
			err = s.apply(resp, open)
		case _, open := <-s.renewals:
			err = renewed(open)
		case <-heartbeat.C:
			err = s.beat(ctx)
		case <-s.readdressed:
			s.due = true
		case <-again.C:
			s.due = true
		}
		if err != nil {
			return err
		}
	}
}

// round settles if that is due. If etcd changed meanwhile, round tries again after a
// short random time: the watch delivers the changes in that time, and hosts that
// want the same subnet try at different times. After other problems it waits longer.
func (s *session) round(ctx context.Context, again *time.Timer) error {
	if !s.due {
		return nil
	}
	s.due = false
	problem, err := s.settle(ctx)
	if err != nil {
		return err
	}
	again.Stop()
	if errors.Is(problem, errOutdated) {
		const slot = 5 * time.Millisecond // about as long as a transaction takes
		s.attempt++
		again.Reset(rand.N(min(slot*time.Duration(s.attempt), s.timing.lastRetry)))
		return nil
	}
	s.attempt = 0
	s.show(s, problem)
	if problem != nil {
		again.Reset(s.timing.again)
	}
	return nil
}

func renewed(open bool) error {
	if !open {
		return errors.New("renew this host's lease: the lease has ended, or etcd did not answer for its whole time to live")
	}
	return nil
}

// apply applies the events of one answer.
func (s *session) apply(resp clientv3.WatchResponse, open bool) error {
	err := resp.Err()
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		return errCompacted
	case err != nil:
		return fmt.Errorf("watch the nodes: %w", err)
	case !open:
		return errors.New("watch the nodes: the connection is closed")
	}
	s.heard = true
	if err := s.checkRevision(resp.Header.Revision); err != nil {
		return err
	}
	for _, ev := range resp.Events {
		if string(ev.Kv.Key) == s.keys.config() {
			s.applyConfig(ev)
		}
	}
	// All events at once: in between, two hosts that swap their subnets would
	// contradict each other.
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := false
	for _, ev := range resp.Events {
		changed = s.applyNode(ev) || changed
	}
	s.noteChange(changed)
	return nil
}

// noteChange signals a change of the set if Nodes shows this set. The caller
// holds mu.
func (s *session) noteChange(changed bool) {
	if changed && s.shown == s.set {
		notify(s.changed)
	}
}

// checkRevision detects an etcd that was restored from a backup. Its revisions
// continue from the backup's, so the watch would stay silent until they exceed the
// revision before the restore. A member that lags may send an older revision once,
// but not twice in a row.
func (s *session) checkRevision(revision int64) error {
	was := s.behind
	s.behind = revision < s.revision
	if was && s.behind {
		return fmt.Errorf("watch the nodes: revision %d of etcd comes after revision %d: it was restored from a backup, or the member hangs", revision, s.revision)
	}
	s.revision = max(s.revision, revision)
	return nil
}

// beat detects a watch that is dead without an error: something on the path to etcd
// drops packets, or the member is stopped.
func (s *session) beat(ctx context.Context) error {
	if s.asked && !s.heard {
		return fmt.Errorf("watch the nodes: no sign of life in %s", s.timing.heartbeat)
	}
	s.asked = !s.heard
	s.heard = false
	if !s.asked {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	// If the request fails, no answer comes, and the next beat notices that.
	_ = s.client.RequestProgress(ctx)
	return nil
}

func (s *session) applyConfig(ev *clientv3.Event) {
	s.due = true
	if ev.Type == clientv3.EventTypeDelete {
		s.configRevision, s.configErr = 0, s.noConfig()
		return
	}
	s.putConfig(ev.Kv)
}

func (s *session) putConfig(kv *mvccpb.KeyValue) {
	s.configRevision = kv.ModRevision
	c, err := parseConfig(s.keys.config(), kv.Value)
	if err == nil && c.settings != nil {
		err = s.opts.CheckSettings(s.keys.config(), c.settings)
	}
	s.configErr = nil
	if err != nil {
		s.configErr = fmt.Errorf("the network's configuration in etcd is refused: %w", err)
		return
	}
	s.process.config = &c
}

// applyNode applies one change of a node's key, and reports whether the set changed.
// It ignores keys that sort between the configuration and the nodes.
func (s *session) applyNode(ev *clientv3.Event) (changed bool) {
	name, ok := s.keys.nodeName(string(ev.Kv.Key))
	switch {
	case !ok:
		return false
	case ev.Type == clientv3.EventTypePut:
		return s.putNode(name, ev.Kv)
	}
	s.due = true // this host may be waiting for the other host's subnets
	return s.removeNode(name, ev.Kv.ModRevision)
}

// putNode records an entry. Only entries of other hosts go into the set at once;
// settle decides about this host's own.
func (s *session) putNode(name string, kv *mvccpb.KeyValue) (changed bool) {
	rec, err := parseRecord(kv.Value)
	if err != nil {
		err = keyError(string(kv.Key), err)
	}
	e := entry{record: rec, name: name, modified: kv.ModRevision, lease: clientv3.LeaseID(kv.Lease)}
	if name != s.opts.Node {
		return s.putOther(e, err)
	}
	if s.ownRevision() < e.modified { // else this process wrote it
		s.own, s.ownErr, s.due = &e, err, true
	}
	return false
}

// putOther puts the entry of another host into the set. If the entry can't be read,
// the host's last readable entry stays.
func (s *session) putOther(e entry, err error) (changed bool) {
	last, known := s.hosts[e.name]
	switch {
	case err == nil:
		s.hosts[e.name] = e
	case known:
		e = last
	default:
		return s.set.Put(registry.Entry{Node: e.node(), Excluded: true, Err: err})
	}
	return s.set.Put(e.inSet(err))
}

func (s *session) removeNode(name string, revision int64) (changed bool) {
	if name != s.opts.Node {
		delete(s.hosts, name)
		return s.set.Remove(name)
	}
	if s.ownRevision() < revision {
		s.own, s.ownErr = nil, nil
	}
	return false
}

func (s *session) noConfig() error {
	return fmt.Errorf("the network has no configuration: put one into the key %s of etcd, such as networks: [10.244.0.0/16]", s.keys.config())
}

// pause waits for a random time between least and most, or until ctx ends.
func pause(ctx context.Context, least, most time.Duration) {
	timer := time.NewTimer(least + rand.N(most-least+1))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
