package etcd

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/overlay-cni/overlay-cni/pkg/subnet"
)

// ErrNoFreeSubnet says that other hosts hold all subnets of a network. Nodes returns
// it together with the other hosts.
var ErrNoFreeSubnet = errors.New("no free subnet left")

// held is a subnet's key.
type held struct {
	holder
	prefix   netip.Prefix
	modified int64 // the revision at which it was written
}

// chooseInput is the input of choose beside the held subnets.
type chooseInput struct {
	config config
	// names are this host's name and, if the host was renamed, its earlier name.
	names []string
	host  string // the machine's identity
	// prefer are subnets to choose if they fit the configuration and are free, the
	// best ones first.
	prefer []netip.Prefix
	// attempt counts how often etcd changed while this host chose.
	attempt int
}

// choice is the difference between the subnets that a host holds and the subnets
// that it should hold.
type choice struct {
	subnets []netip.Prefix // one of each network, in the order of the configuration
	take    []netip.Prefix // part of subnets: nobody holds them yet
	keep    []held         // part of subnets: the host holds them
	drop    []held         // other subnets that the host holds
}

// choose finds a subnet of each network: one the host holds, else one that it
// prefers, else a free one.
func choose(w chooseInput, all []held) (choice, error) {
	var mine []held
	var taken []netip.Prefix
	for _, h := range all {
		if h.Host == w.host && slices.Contains(w.names, h.Node) {
			mine = append(mine, h)
		} else {
			taken = append(taken, h.prefix)
		}
	}
	var c choice
	for _, p := range w.config.pools {
		prefix, err := w.from(p, mine, taken)
		if err != nil {
			return choice{}, err
		}
		c.subnets = append(c.subnets, prefix)
		if !slices.ContainsFunc(mine, func(h held) bool { return h.prefix == prefix }) {
			c.take = append(c.take, prefix)
		}
	}
	for _, h := range mine {
		if slices.Contains(c.subnets, h.prefix) {
			c.keep = append(c.keep, h)
		} else {
			c.drop = append(c.drop, h)
		}
	}
	return c, nil
}

// from chooses a subnet from one pool.
func (w chooseInput) from(p pool, mine []held, taken []netip.Prefix) (netip.Prefix, error) {
	usable := func(s netip.Prefix) bool { return p.fits(s) && !slices.ContainsFunc(taken, s.Overlaps) }
	candidates := slices.Clone(w.prefer)
	for _, h := range mine {
		candidates = append(candidates, h.prefix)
	}
	if i := slices.IndexFunc(candidates, usable); i >= 0 {
		return candidates[i], nil
	}
	if s, ok := p.free(w.start(), taken); ok {
		return s, nil
	}
	return netip.Prefix{}, fmt.Errorf("%w in %s: all %d of length /%d are taken or excluded: enlarge the network, or remove the keys of hosts that are gone",
		ErrNoFreeSubnet, p.network, p.size(), p.length)
}

// start returns the number of the subnet at which to begin the search. It follows
// from the host's name, so hosts that join at the same time rarely want the same
// subnet, and a host that joins again wants the same one. It changes with each
// attempt: otherwise all hosts that wanted one subnet would next want the same one.
func (w chooseInput) start() uint64 {
	return subnet.Hash("subnet of " + w.names[0] + ", attempt " + strconv.Itoa(w.attempt))
}
