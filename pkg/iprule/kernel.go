package iprule

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/rtnl"
)

// Kernel is a network namespace. It is for one goroutine at a time.
type Kernel struct{ conn *rtnl.Conn }

// Open opens the network namespace of the calling thread.
func Open() (*Kernel, error) {
	conn, err := rtnl.Open()
	if err != nil {
		return nil, err
	}
	return &Kernel{conn}, nil
}

// Close closes the socket.
func (k *Kernel) Close() error { return k.conn.Close() }

// Sync sets our rules and returns what it changed. The error also names rules of
// others that lead pods' packets elsewhere in spite of ours.
func (k *Kernel) Sync(want State) (changes []string, err error) {
	var errs []error
	for _, f := range family.All() {
		done, needed, err := k.sync(f, want.networks(f))
		changes = append(changes, done...)
		errs = append(errs, err)
		if err == nil && needed {
			errs = append(errs, k.probe(f, want))
		}
	}
	return changes, errors.Join(errs...)
}

// sync sets the rules of a family. needed says that there are rules of ours.
func (k *Kernel) sync(f family.Family, networks []network) (changes []string, needed bool, err error) {
	have, err := k.rules(f)
	if err != nil {
		return nil, false, err
	}
	_, _, needed = room(networks, have)
	ops := plan(f, networks, have)
	if len(ops) == 0 {
		return nil, needed, nil
	}
	var b rtnl.Batch
	for _, o := range ops {
		if o.add != nil {
			b.AddRule(*o.add).Tolerate(unix.EEXIST)
		} else {
			b.DelDumped("rule "+o.remove.String(), rtnl.DumpedRule, string(o.remove.Raw)).Tolerate(unix.ENOENT)
		}
		changes = append(changes, fmt.Sprintf("%s: %s", f, o))
	}
	return changes, needed, k.conn.Run(&b)
}

// rules lists a family's rules. A kernel without policy routing has none.
func (k *Kernel) rules(f family.Family) (have []rtnl.RuleEntry, err error) {
	err = k.conn.EachRule(f, func(r rtnl.RuleEntry) { have = append(have, r) })
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, nil
	}
	return have, err
}

// probe asks the kernel where packets of this host to pods go: to a pod of this host,
// and to one of another host.
func (k *Kernel) probe(f family.Family, want State) error {
	var errs []error
	sources := []netip.Addr{{}}
	for _, a := range want.Sources {
		if family.Of(a) == f {
			sources = append(sources, a)
		}
	}
	for device, subnets := range map[string][]netip.Prefix{want.Bridge: f.Filter(want.Own), want.Tunnel: f.Filter(want.Tunneled)} {
		index, err := k.conn.Index(device)
		if err != nil || len(subnets) == 0 {
			continue // that is another part's
		}
		pod := subnets[0].Addr().Next().Next()
		for _, src := range sources {
			route, err := k.conn.RouteFrom(src, pod)
			if err == nil && route.Index == index {
				continue
			}
			errs = append(errs, fmt.Errorf("packets%s to pods such as %s don't leave by %s: a rule of policy routing leads them elsewhere (ip %s rule; ip route get %s%s): give it a priority after our rules (protocol %d)",
				fromText(src), pod, device, option(f), pod, fromText(src), Protocol))
		}
	}
	return errors.Join(errs...)
}

func fromText(src netip.Addr) string {
	if !src.IsValid() {
		return ""
	}
	return " from " + src.String()
}

// option is the family's option of ip(8).
func option(f family.Family) string {
	if f == family.IPv4 {
		return "-4"
	}
	return "-6"
}

// Remove deletes our rules and returns what it deleted.
func (k *Kernel) Remove() (changes []string, err error) {
	var errs []error
	for _, f := range family.All() {
		done, _, err := k.sync(f, nil)
		changes = append(changes, done...)
		errs = append(errs, err)
	}
	return changes, errors.Join(errs...)
}
