package routes

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/nl"
	"github.com/overlay-cni/overlay-cni/internal/rtnl"
)

// ErrPart says that other programs' routes take parts of this host's pod subnets,
// or subnets of other hosts. The rest of this host's pods can be reached.
var ErrPart = errors.New("routes of other programs lead pods' traffic astray")

// Kernel is a network namespace. Its methods may be called from several goroutines.
type Kernel struct {
	conn *rtnl.Conn
	ours func(protocol uint8) bool

	mu      sync.Mutex
	notices *rtnl.Notices
	// want and host are what the last Sync was asked for.
	want State
	host host
	// reread makes the next Sync read all routes.
	reread bool
}

// Open opens the network namespace of the calling thread. ours recognises the
// protocol numbers of our routes to other hosts.
func Open(ours func(protocol uint8) bool) (*Kernel, error) {
	conn, err := rtnl.Open()
	if err != nil {
		return nil, err
	}
	notices, err := rtnl.Subscribe()
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &Kernel{conn: conn, ours: ours, notices: notices, reread: true}, nil
}

// Close closes the sockets.
func (k *Kernel) Close() error { return errors.Join(k.conn.Close(), k.notices.Close()) }

// rounds bounds how often Sync reads and changes.
const rounds = 3

// Sync gives the bridge its connected routes, and returns what it changed. Nobody may
// modify want afterwards. The error names the routes of other programs that lead
// pods' traffic astray. It is ErrPart if most of this host's pods can be reached in
// spite of it.
func (k *Kernel) Sync(want State) (changes []string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	// What is pending is about changes that the reading below includes.
	if _, err := k.poll(); err != nil {
		return nil, err
	}
	bridge, err := k.conn.Link(want.Bridge)
	if err != nil {
		return nil, err
	}
	if !k.reread && k.host.bridge == bridge.Index && k.want.equal(want) {
		return nil, nil
	}
	k.reread, k.want = true, want
	addresses, young, err := k.addresses(bridge.Index)
	if err != nil {
		return nil, err
	}
	k.host = host{
		subnets: want.subnets(), want: want.and(addresses).connected(bridge.Index), bridge: bridge.Index, ours: k.ours,
	}
	var have []rtnl.RouteEntry
	for range rounds {
		if have, err = k.read(); err != nil {
			return changes, err
		}
		ops := plan(k.host.want, have)
		due := slices.DeleteFunc(slices.Clone(ops), func(o op) bool { return o.late() && young[o.add.Dst.Addr()] })
		early := len(due) < len(ops)
		ops = due
		if len(ops) == 0 {
			found := k.host.conflicts(have)
			k.reread = early || len(changes)+len(found) > 0
			return changes, report(found)
		}
		if err := k.apply(ops); err != nil {
			return changes, err
		}
		for _, o := range ops {
			changes = append(changes, o.String())
		}
	}
	return changes, errors.Join(report(k.host.conflicts(have)),
		fmt.Errorf("%s does not keep its routes, so another program must be changing them", want.Bridge))
}

// read lists the routes that may matter, in the kernel's order.
func (k *Kernel) read() ([]rtnl.RouteEntry, error) {
	var all []rtnl.RouteEntry
	for _, f := range family.All() {
		err := k.conn.EachRoute(f, 0, func(r rtnl.RouteEntry) {
			_, within := k.host.around(r.Dst)
			if within || r.Index == k.host.bridge {
				r.Raw = slices.Clone(r.Raw)
				all = append(all, r)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// settling is how long the kernel may take to make the route to a new IPv6 address of
// the host. It does so after it answered, and reports the address then, which starts
// another round.
const settling = 2 * time.Second

// addresses returns the bridge's addresses that should have routes, and those among
// them to which the kernel may be about to make a route.
func (k *Kernel) addresses(bridge int) (all []netip.Prefix, young map[netip.Addr]bool, err error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return nil, nil, fmt.Errorf("read the clock: %w", err)
	}
	young = map[netip.Addr]bool{}
	err = k.conn.EachAddr(bridge, func(a rtnl.AddrEntry) {
		if a.Flags&unix.IFA_F_TENTATIVE == 0 {
			all = append(all, a.Prefix)
			young[a.Prefix.Addr()] = time.Duration(now.Nano())-a.Created < settling
		}
	})
	return all, young, err
}

func (k *Kernel) apply(ops []op) error {
	var b rtnl.Batch
	for _, o := range ops {
		if o.add != nil {
			b.AppendConnected(*o.add).Tolerate(unix.EEXIST)
		} else {
			b.DelDumped("route "+o.remove.Dst.String(), rtnl.DumpedRoute, string(o.remove.Raw)).Tolerate(unix.ESRCH)
		}
	}
	return k.conn.Run(&b)
}

// report joins the first few conflicts, which tend to be alike.
func report(found []conflict) error {
	const shown = 5
	var severe bool
	var errs []error
	for _, c := range found {
		severe = severe || c.whole()
		if len(errs) < shown {
			errs = append(errs, errors.New(c.text(linkName)))
		}
	}
	if more := len(found) - shown; more > 0 {
		errs = append(errs, fmt.Errorf("and %d more routes", more))
	}
	if len(errs) == 0 || severe {
		return errors.Join(errs...)
	}
	return fmt.Errorf("%w: %w", ErrPart, errors.Join(errs...))
}

// linkName is the name of an interface, or its index if the interface is gone.
func linkName(index int) string {
	link, err := net.InterfaceByIndex(index)
	if err != nil {
		return fmt.Sprint(index)
	}
	return link.Name
}

// ForceResync makes the next Sync read all routes.
func (k *Kernel) ForceResync() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reread = true
}

// Watch calls changed when the kernel reports a change that Sync may have to undo or
// report, until ctx ends. changed must neither block nor call k.
func (k *Kernel) Watch(ctx context.Context, changed func()) error {
	k.notices.Resume()
	defer context.AfterFunc(ctx, k.notices.Interrupt)()
	for {
		err := k.notices.Wait()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		k.mu.Lock()
		contradicted, err := k.poll()
		k.mu.Unlock()
		if contradicted {
			changed()
		}
		if err != nil {
			return err
		}
	}
}

// poll takes all pending notifications and reports whether one of them contradicts
// the desired state. A lost notification counts as one that does.
func (k *Kernel) poll() (contradicted bool, err error) {
	err = k.notices.Drain(func(n rtnl.Notice) { contradicted = contradicted || k.host.contradictedBy(n) })
	if err != nil {
		contradicted = true
	}
	k.reread = k.reread || contradicted
	if errors.Is(err, nl.ErrLost) {
		err = nil
	}
	return contradicted, err
}

// contradictedBy reports whether, according to a notification, the kernel may differ
// from the desired state. The kernel deletes IPv4 routes along with an interface or its
// address, and reports none of them.
func (h host) contradictedBy(n rtnl.Notice) bool {
	if n.Link != 0 {
		return n.Link == h.bridge
	}
	if n.Route == nil {
		return false
	}
	altered := func(w rtnl.ConnectedRoute) bool { return sameKey(w, n.Route) && (n.Gone || !same(w, n.Route)) }
	if slices.ContainsFunc(h.want, altered) {
		return true
	}
	_, matters := h.foreign(n.Route)
	return matters
}
