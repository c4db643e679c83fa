// Package flannel finds what another pod network, flannel, has on this host. Its
// routes keep ours out, and its rules outlive it.
//
// Invariant: it changes nothing. What to do, and in which order, is for an operator:
// see "Leaving flannel" in docs/install.md.
package flannel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/nft"
	"github.com/overlay-cni/overlay-cni/internal/rtnl"
)

// ErrHere says that flannel, or something of it, is on this host.
var ErrHere = errors.New(`see "Leaving flannel" in docs/install.md`)

// Found is what flannel has on this host.
type Found struct {
	// Devices are its VXLAN devices: flannel.1, flannel-v6.1.
	Devices []string
	// Routes are the pod subnets of other hosts to which the devices' routes lead.
	Routes []netip.Prefix
	// Chains are its chains of rules, and portmap's, which the network configuration
	// of flannel calls.
	Chains []string
}

// Kernel is a network namespace. It is for one goroutine at a time.
type Kernel struct {
	links *rtnl.Conn
	rules *nft.Conn // nil where the kernel has no nf_tables
	// look makes the next Find look. It is false only after a Find that found
	// nothing.
	look bool
	last Found
}

// Open opens the network namespace of the calling thread.
func Open() (*Kernel, error) {
	links, err := rtnl.Open()
	if err != nil {
		return nil, err
	}
	rules, err := nft.Dial()
	if err != nil && !errors.Is(err, nft.ErrUnsupported) {
		return nil, errors.Join(err, links.Close())
	}
	return &Kernel{links: links, rules: rules, look: true}, nil
}

// Close closes the sockets.
func (k *Kernel) Close() {
	_ = k.links.Close()
	if k.rules != nil {
		k.rules.Close()
	}
}

// ForceResync makes the next Find look, also where the last one found nothing.
func (k *Kernel) ForceResync() { k.look = true }

// Find returns what flannel has on this host. It doesn't look into iptables-legacy,
// which takes a program. Where nothing was found, Find looks again after ForceResync.
func (k *Kernel) Find() (Found, error) {
	if !k.look {
		return k.last, nil
	}
	var f Found
	err := k.findDevices(&f)
	if k.rules != nil {
		err = errors.Join(err, k.findChains(&f))
	}
	if errors.Is(err, nft.ErrUnstable) {
		return k.last, nil // the next Find looks again
	}
	k.last, k.look = f, err != nil || f.Err() != nil
	return f, err
}

// findDevices finds devices by the names that flanneld gives them.
func (k *Kernel) findDevices(f *Found) error {
	var indexes []int
	err := k.links.EachLink("vxlan", func(l rtnl.LinkEntry) {
		if a := l.Attrs(); strings.HasPrefix(a.Name, "flannel.") || strings.HasPrefix(a.Name, "flannel-v6.") {
			f.Devices, indexes = append(f.Devices, a.Name), append(indexes, a.Index)
		}
	})
	errs := []error{err}
	for _, index := range indexes {
		for _, fam := range family.All() {
			errs = append(errs, k.links.EachRoute(fam, index, func(r rtnl.RouteEntry) {
				if r.Table == unix.RT_TABLE_MAIN && r.Via.IsValid() {
					f.Routes = append(f.Routes, r.Dst)
				}
			}))
		}
	}
	slices.Sort(f.Devices)
	slices.SortFunc(f.Routes, netip.Prefix.Compare)
	return errors.Join(errs...)
}

// portmapChain is portmap's. Other networks call portmap, too, so the chain counts
// only beside something of flannel.
const portmapChain = "CNI-HOSTPORT-DNAT"

func (k *Kernel) findChains(f *Found) error {
	var errs []error
	var portmap []string
	for _, fam := range family.All() {
		tables := map[family.Family]string{family.IPv4: "flannel-ipv4", family.IPv6: "flannel-ipv6"}
		for _, c := range []struct{ table, chain string }{
			{"filter", "FLANNEL-FWD"}, {"nat", "FLANNEL-POSTRTG"},
			{tables[fam], "forward"}, {tables[fam], "postrtg"}, // with flanneld's EnableNFTables
			{"nat", portmapChain},
		} {
			id := nft.ID{Family: nft.Family(fam), Name: c.table}
			chain, err := k.rules.ReadChain(id, c.chain)
			errs = append(errs, err)
			name := fmt.Sprintf("%s of %s", c.chain, id)
			switch {
			case chain == nil:
			case c.chain != portmapChain:
				f.Chains = append(f.Chains, name)
			case len(chain.Rules) > 0:
				portmap = append(portmap, name)
			}
		}
	}
	if len(f.Devices)+len(f.Chains) > 0 {
		f.Chains = append(f.Chains, portmap...)
	}
	return errors.Join(errs...)
}

// Err returns nil if nothing was found, else an error that is ErrHere and says what.
func (f Found) Err() error {
	var parts []string
	if len(f.Devices) > 0 {
		text := "device " + strings.Join(f.Devices, ", ")
		if n := len(f.Routes); n > 0 {
			text += fmt.Sprintf(" with the routes to %d pod subnets, which therefore don't use our tunnel yet", n)
		} else {
			text += ", which still receives from hosts that send by flannel"
		}
		parts = append(parts, text)
	}
	if len(f.Chains) > 0 {
		parts = append(parts, "rules that masquerade pods and lead ports of the host to addresses which other pods may have by now ("+strings.Join(f.Chains, ", ")+")")
	}
	if len(parts) == 0 {
		return nil
	}
	return fmt.Errorf("flannel is on this host: %s: %w", strings.Join(parts, "; "), ErrHere)
}
