package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

// ErrNameTaken says that another machine is registered with this host's name. Nodes
// returns it together with the other hosts.
var ErrNameTaken = errors.New("the node name is taken")

// settle registers this host, or corrects its keys. It returns a problem that
// somebody else has to resolve, or an error that ends the session.
func (s *session) settle(ctx context.Context) (problem, err error) {
	s.remember()
	foreign := s.foreign()
	problem = foreign
	if foreign == nil && !s.settled() {
		problem, err = s.claim(ctx)
	}
	if err == nil {
		err = s.renew(ctx)
	}
	if err != nil {
		return nil, err
	}
	s.showOwn(foreign == nil)
	if s.configErr != nil && !errors.Is(problem, s.configErr) {
		problem = errors.Join(s.configErr, problem)
	}
	return problem, nil
}

// remember records what this process wrote. The key in etcd shows it even if the
// answer to the transaction was lost.
func (s *session) remember() {
	if s.own != nil && s.own.Instance == s.instance {
		s.process.written, s.process.subnets = s.own.modified, s.own.Subnets
	}
}

// showOwn puts this host's entry into the set. If the entry belongs to another
// machine, showOwn leaves it out: the daemon would use the subnets of that machine.
func (s *session) showOwn(ours bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.own != nil && ours {
		s.noteChange(s.set.Put(s.own.inSet(nil)))
	} else {
		s.noteChange(s.set.Remove(s.opts.Node))
	}
}

// foreign returns why this process must not write this host's key, or nil.
func (s *session) foreign() error {
	switch own := s.own; {
	case s.ownErr != nil:
		return fmt.Errorf("this host is not registered: %w", s.ownErr)
	case own == nil:
		return nil
	case own.Host != s.opts.HostID:
		return fmt.Errorf("%w: another machine, %v, is registered as %q: give this host another name, or delete the key %s if that machine is gone for good",
			ErrNameTaken, own.Addresses, own.name, s.keys.node(own.name))
	case own.Instance != s.instance && s.process.written > 0 && own.modified > s.process.written:
		// A key older than what this process wrote is from a backup of etcd.
		return fmt.Errorf("%w: another overlayd with the same node name and machine id, at %v, took over the key %s: give machines that were copied a name and a machine id of their own (systemd-machine-id-setup)",
			ErrNameTaken, own.Addresses, s.keys.node(own.name))
	}
	return nil
}

// settled reports whether there is nothing to write.
func (s *session) settled() bool {
	return s.own != nil && s.own.Instance == s.instance &&
		s.process.lease != 0 && s.own.lease == s.process.lease &&
		slices.Equal(s.own.Addresses, s.addressesToWrite()) &&
		(s.configErr != nil || s.process.config.fits(s.own.Subnets))
}

// addressesToWrite returns the addresses that were set, or else those of the
// entry: a daemon that starts again keeps its lease even without an underlay.
func (s *session) addressesToWrite() []netip.Addr {
	if addrs := s.wantedAddresses(); len(addrs) > 0 {
		return s.process.announceable(addrs)
	}
	if s.own != nil {
		return s.own.Addresses
	}
	return nil
}

// announceable leaves out addresses inside the pods' network, which no host can
// use. It always keeps the first address, the tunnel's source: if that address is
// inside the pods' network, check refuses the whole claim.
func (h process) announceable(addrs []netip.Addr) []netip.Addr {
	if h.config == nil {
		return addrs
	}
	inside := func(a netip.Addr) bool {
		return slices.ContainsFunc(h.config.pools, func(p pool) bool { return p.network.Contains(a) })
	}
	return append([]netip.Addr{addrs[0]}, slices.DeleteFunc(slices.Clone(addrs[1:]), inside)...)
}

// claim chooses subnets and writes this host's keys.
func (s *session) claim(ctx context.Context) (problem, err error) {
	if err := s.waiting(); err != nil {
		return err, nil
	}
	c, problem, err := s.prepare(ctx)
	if problem != nil || err != nil {
		return problem, err
	}
	return s.commit(ctx, c)
}

// waiting says what is missing before this host can be registered.
func (s *session) waiting() error {
	if s.own == nil && s.configErr != nil {
		return s.configErr
	}
	if len(s.addressesToWrite()) == 0 {
		return errors.New("this host is not registered yet: its address on the underlay is not known")
	}
	return nil
}

// claim is what a transaction writes for this host.
type claim struct {
	choice
	record record
	// had are the subnets that this host had before the claim.
	had []netip.Prefix
	// before is the entry of this machine under an earlier name.
	before *entry
}

// prepare lists the subnets that hosts hold, and chooses subnets for this host.
func (s *session) prepare(ctx context.Context) (c claim, problem, err error) {
	all, err := s.allHeld(ctx)
	if err != nil {
		return claim{}, nil, err
	}
	w := chooseInput{config: s.effectiveConfig(), names: []string{s.opts.Node}, host: s.opts.HostID, attempt: s.attempt}
	sources := [][]netip.Prefix{s.process.subnets, s.opts.Previous}
	if s.own != nil {
		sources = slices.Insert(sources, 0, s.own.Subnets)
	} else if c.before = s.earlierName(); c.before != nil {
		w.names = append(w.names, c.before.name)
		sources = slices.Insert(sources, 0, c.before.Subnets)
	}
	w.prefer = slices.Concat(sources...)
	if i := slices.IndexFunc(sources, func(had []netip.Prefix) bool { return len(had) > 0 }); i >= 0 {
		c.had = sources[i]
	}
	if c.choice, err = choose(w, all); err != nil {
		return claim{}, fmt.Errorf("this host is not registered: %w", err), nil
	}
	c.record = record{
		Version: recordVersion, Host: s.opts.HostID, Instance: s.instance,
		Addresses: s.addressesToWrite(), Subnets: c.subnets,
	}
	return c, s.check(c.record, w.config), nil
}

// effectiveConfig returns the configuration to choose from. While the configuration
// in etcd can't be read, effectiveConfig allows only the subnets that this host
// has, because two hosts may remember different configurations.
func (s *session) effectiveConfig() config {
	if s.configErr == nil {
		return *s.process.config
	}
	var c config
	for _, p := range s.own.Subnets {
		c.pools = append(c.pools, pool{network: p, length: p.Bits()})
	}
	return c
}

// check refuses a record that the other hosts would leave out.
func (s *session) check(r record, c config) error {
	for _, a := range r.Addresses {
		for _, p := range c.pools {
			if p.network.Contains(a) {
				return fmt.Errorf("this host is not registered: its address %s lies in the pods' network %s: take another network for pods", a, p.network)
			}
		}
	}
	if err := registry.Check(registry.Node{Name: s.opts.Node, Addresses: r.Addresses, Subnets: r.Subnets}); err != nil {
		return fmt.Errorf("this host is not registered: %w", err)
	}
	return nil
}

// earlierName finds the entry of this machine, at this address, under another
// name. The address has to match because hosts may share a machine's identity, as
// containers do.
func (s *session) earlierName() *entry {
	addrs := s.addressesToWrite()
	for _, e := range s.hosts {
		same := func(a netip.Addr) bool { return slices.Contains(addrs, a) }
		if e.Host == s.opts.HostID && slices.ContainsFunc(e.Addresses, same) {
			return &e
		}
	}
	return nil
}

// allHeld lists the subnets that hosts have.
func (s *session) allHeld(ctx context.Context) ([]held, error) {
	var resp *clientv3.GetResponse
	err := request(ctx, s.timing, "list the subnets", func(ctx context.Context) (err error) {
		resp, err = s.client.Get(ctx, s.keys.subnets(), clientv3.WithPrefix())
		return err
	})
	if err != nil {
		return nil, err
	}
	var all []held
	for _, kv := range resp.Kvs {
		if h, ok := s.keys.held(kv); ok {
			all = append(all, h)
		}
	}
	return all, nil
}
