package firewall

import (
	"errors"
	"fmt"

	"github.com/overlay-cni/overlay-cni/internal/network"
	"github.com/overlay-cni/overlay-cni/internal/nft"
)

// Kernel keeps the table of one network. It belongs to the network namespace of
// the thread that first calls Sync or Remove, and is for one goroutine at a time.
type Kernel struct {
	id     nft.ID
	conn   *nft.Conn
	keeper keeper
	// refused is the last table that the kernel could not have, and less what it has
	// in its place.
	refused, less *nft.Table
	why           error
}

// keeper is an nft.Keeper.
type keeper interface {
	Sync(*nft.Table) ([]nft.Change, error)
}

// ErrTracked says that the table is there, but for what keeps the tunnel's packets out
// of connection tracking.
var ErrTracked = errors.New("connection tracking has an entry for each flow in the tunnel, because the kernel lacks what vxlan.notrack needs: " +
	"load the modules nft_ct and nft_fib_inet, or set vxlan.notrack to false")

// New returns a Kernel that has not opened anything yet: a kernel that lacks
// nf_tables now may load it later.
func New(n network.Name) *Kernel { return &Kernel{id: nft.ID{Family: nft.Inet, Name: TableName(n)}} }

// Sync makes the table equal to want and returns its changes. A nil want means that
// there should be no table. After an error the table is unchanged, except after ErrTracked.
// The error is nft.ErrUnsupported if the kernel lacks nf_tables or a part of it that
// can't be spared. Sync reads the table only if nf_tables changed, because the table
// is long with the subnets of thousands of nodes.
func (k *Kernel) Sync(want *nft.Table) (changes []string, err error) {
	if k.keeper == nil {
		if k.conn, err = nft.Dial(); err != nil {
			return nil, err
		}
		k.keeper = nft.NewKeeper(k.conn, k.id)
	}
	if want != nil && want == k.refused {
		did, err := k.keeper.Sync(k.less)
		if err == nil {
			err = k.why
		}
		return nft.Texts(did), err
	}
	did, err := k.keeper.Sync(want)
	less, spared := tracked(want)
	if !errors.Is(err, nft.ErrUnsupported) || !spared {
		k.refused, k.less, k.why = nil, nil, nil
		return nft.Texts(did), err
	}
	why := fmt.Errorf("%w: %w", ErrTracked, err)
	if did, err = k.keeper.Sync(less); err != nil {
		return nft.Texts(did), err
	}
	k.refused, k.less, k.why = want, less, why
	return nft.Texts(did), why
}

// ForceResync makes the next Sync try again what the kernel lacked: a module may have
// been loaded.
func (k *Kernel) ForceResync() { k.refused, k.less, k.why = nil, nil, nil }

// Remove deletes the table and returns what it changed. A kernel without
// nf_tables has no table.
func (k *Kernel) Remove() (changes []string, err error) {
	changes, err = k.Sync(nil)
	if errors.Is(err, nft.ErrUnsupported) {
		err = nil
	}
	return changes, err
}

// Close closes what Sync opened.
func (k *Kernel) Close() {
	if k.conn != nil {
		k.conn.Close()
		k.conn, k.keeper = nil, nil
	}
}
