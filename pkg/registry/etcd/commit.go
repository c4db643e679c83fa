package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// commit writes the claim, unless something that it was made from has changed in
// etcd. Then it returns errOutdated.
func (s *session) commit(ctx context.Context, c claim) (problem, err error) {
	if err := s.grant(ctx); err != nil {
		return nil, err
	}
	cmps, ops := s.transaction(c)
	var resp *clientv3.TxnResponse
	err = request(ctx, s.timing, "register this host", func(ctx context.Context) (err error) {
		resp, err = s.client.Txn(ctx).If(cmps...).Then(ops...).Commit()
		return err
	})
	switch {
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		s.process.lease, s.renewals = 0, nil
		return errOutdated, nil
	case err != nil:
		return nil, err
	case !resp.Succeeded:
		return errOutdated, nil
	}
	s.registered(c, resp.Header.Revision)
	return nil, nil
}

// errOutdated says that a claim was made from outdated data: another host took the
// subnet, or the lease has ended, or the watch has not yet delivered a change of
// this host's key or the configuration.
var errOutdated = errors.New("register this host: etcd changed meanwhile")

// transaction returns the comparisons and writes of a claim. The comparisons fail
// if a key that the claim was made from has changed.
func (s *session) transaction(c claim) (cmps []clientv3.Cmp, ops []clientv3.Op) {
	unchanged := func(key string, revision int64) { // revision 0: there is no such key
		cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(key), "=", revision))
	}
	put := func(key, value string) {
		ops = append(ops, clientv3.OpPut(key, value, clientv3.WithLease(s.process.lease)))
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

// registered records the written claim at once. The watch delivers it later.
func (s *session) registered(c claim, revision int64) {
	s.own = &entry{record: c.record, name: s.opts.Node, modified: revision, lease: s.process.lease}
	s.remember()
	s.logSubnets(c)
	if c.before != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.noteChange(s.removeNode(c.before.name, revision))
	}
}

// logSubnets logs this host's subnets if they changed.
func (s *session) logSubnets(c claim) {
	if slices.Equal(s.process.logged, c.subnets) {
		return
	}
	s.process.logged = c.subnets
	log := s.opts.Log.With("node", s.opts.Node, "subnets", c.subnets)
	switch {
	case slices.Equal(c.had, c.subnets):
		log.Info("kept the pod subnets")
	case len(c.had) == 0:
		log.Info("got pod subnets")
	default:
		// Other hosts have the old subnets, or the configuration changed.
		log.Error("pod subnets changed, recreate this host's pods", "before", c.had)
	}
}

// grant makes sure that this host has a lease.
func (s *session) grant(ctx context.Context) error {
	if s.process.lease != 0 {
		return nil
	}
	return request(ctx, s.timing, "get a lease", func(ctx context.Context) error {
		resp, err := s.client.Grant(ctx, int64(s.opts.TTL/time.Second))
		if err != nil {
			return err
		}
		s.process.lease = resp.ID
		return nil
	})
}

// renew makes the client renew the lease, each time after a third of its TTL.
func (s *session) renew(ctx context.Context) (err error) {
	if s.process.lease == 0 || s.renewals != nil {
		return nil
	}
	s.renewals, err = s.client.KeepAlive(ctx, s.process.lease)
	if err != nil {
		return fmt.Errorf("renew this host's lease: %w", err)
	}
	return nil
}
