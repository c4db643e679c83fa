package etcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// commit writes the claim if nothing it rests on has changed.
func (s *session) commit(ctx context.Context, c claim) (problem, err error) {
	if err := s.grant(ctx); err != nil {
		return nil, err
	}
	cmps, ops := s.transaction(c)
	var resp *clientv3.TxnResponse
	err = request(ctx, s.timing, "register this host", func(ctx context.Context) (err error) {
		resp, err = s.client.Txn(ctx).If(cmps...).Then(ops...).Else(s.witnesses(c)...).Commit()
		return err
	})
	switch {
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		s.hold.lease, s.renewals = 0, nil
		return errTaken, nil
	case err != nil:
		return nil, err
	case !resp.Succeeded && s.isMoved(c, resp):
		return errMoved, nil
	case !resp.Succeeded:
		return errTaken, nil
	}
	s.won(c, resp.Header.Revision)
	return nil, nil
}

// errTaken says that another host was faster, or the lease was over.
var errTaken = errors.New("the subnet was taken meanwhile")

// transaction compares what the claim was made from, and writes it.
func (s *session) transaction(c claim) (cmps []clientv3.Cmp, ops []clientv3.Op) {
	unchanged := func(key string, revision int64) { // 0: there is none
		cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(key), "=", revision))
	}
	put := func(key, value string) {
		ops = append(ops, clientv3.OpPut(key, value, clientv3.WithLease(s.hold.lease)))
	}
	unchanged(s.keys.config(), s.configRevision)
	unchanged(s.keys.node(s.opts.Node), s.ownRevision())
	put(s.keys.node(s.opts.Node), encode(c.record))
	value := encode(holder{Node: s.opts.Node, Host: s.opts.HostID})
	for _, p := range c.take {
		unchanged(s.keys.subnet(p), 0)
		put(s.keys.subnet(p), value)
	}
	for _, h := range c.keep {
		unchanged(s.keys.subnet(h.prefix), h.modified)
		put(s.keys.subnet(h.prefix), value)
	}
	for _, h := range c.drop {
		unchanged(s.keys.subnet(h.prefix), h.modified)
		ops = append(ops, clientv3.OpDelete(s.keys.subnet(h.prefix)))
	}
	if c.before != nil {
		unchanged(s.keys.node(c.before.name), c.before.modified)
		ops = append(ops, clientv3.OpDelete(s.keys.node(c.before.name)))
	}
	return cmps, ops
}

func (s *session) ownRevision() int64 {
	if s.own == nil {
		return 0
	}
	return s.own.modified
}

// known are the keys that the claim rests on and that we watch, with their
// revisions. The subnets' we don't watch, and list them again.
func (s *session) known(c claim) map[string]int64 {
	known := map[string]int64{s.keys.config(): s.configRevision, s.keys.node(s.opts.Node): s.ownRevision()}
	if c.before != nil {
		known[s.keys.node(c.before.name)] = c.before.modified
	}
	return known
}

// witnesses are read when the transaction fails, to know why.
func (s *session) witnesses(c claim) []clientv3.Op {
	var ops []clientv3.Op
	for key := range s.known(c) {
		ops = append(ops, clientv3.OpGet(key, clientv3.WithKeysOnly()))
	}
	return ops
}

// isMoved reports whether a key that we watch is another one than we know.
func (s *session) isMoved(c claim, resp *clientv3.TxnResponse) bool {
	known := s.known(c)
	for _, r := range resp.Responses {
		for _, kv := range r.GetResponseRange().GetKvs() {
			if known[string(kv.Key)] != kv.ModRevision {
				return true
			}
			delete(known, string(kv.Key))
		}
	}
	// What is left is not there.
	return slices.ContainsFunc(slices.Collect(maps.Values(known)), func(revision int64) bool { return revision != 0 })
}

// won takes over what was written; the watch brings it, too, but later.
func (s *session) won(c claim, revision int64) {
	s.own = &entry{record: c.record, name: s.opts.Node, modified: revision, lease: s.hold.lease}
	s.remember()
	s.tell(c)
	if c.before != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.noteChange(s.removeNode(c.before.name, revision))
	}
}

// tell logs which subnets this host has, when they are new.
func (s *session) tell(c claim) {
	if slices.Equal(s.hold.told, c.subnets) {
		return
	}
	s.hold.told = c.subnets
	log := s.opts.Log.With("node", s.opts.Node, "subnets", c.subnets)
	switch {
	case slices.Equal(c.had, c.subnets):
		log.Info("this host has the pod subnets that it had")
	case len(c.had) == 0:
		log.Info("this host has got pod subnets")
	default:
		log.Error("this host has other pod subnets than before, because other hosts have the old ones or the configuration changed: create its pods anew",
			"before", c.had)
	}
}

// grant makes sure that there is a lease to write under.
func (s *session) grant(ctx context.Context) error {
	if s.hold.lease != 0 {
		return nil
	}
	return request(ctx, s.timing, "get a lease", func(ctx context.Context) error {
		resp, err := s.client.Grant(ctx, int64(s.opts.TTL/time.Second))
		if err != nil {
			return err
		}
		s.hold.lease = resp.ID
		return nil
	})
}

// renew has the client renew the lease, each time a third of it is over.
func (s *session) renew(ctx context.Context) (err error) {
	if s.hold.lease == 0 || s.renewals != nil {
		return nil
	}
	s.renewals, err = s.client.KeepAlive(ctx, s.hold.lease)
	if err != nil {
		return fmt.Errorf("renew this host's lease: %w", err)
	}
	return nil
}
