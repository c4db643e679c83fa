package firewall

import (
	"errors"

	"github.com/overlay-cni/overlay-cni/internal/network"
	"github.com/overlay-cni/overlay-cni/internal/nft"
)

// Kernel keeps the table of one network. It belongs to the network namespace of
// the thread that first calls Sync or Remove, and is for one goroutine at a time.
type Kernel struct {
	id     nft.ID
	conn   *nft.Conn
	keeper *nft.Keeper
}

// New returns a Kernel that has not opened anything yet: a kernel that lacks
// nf_tables now may load it later.
func New(n network.Name) *Kernel { return &Kernel{id: nft.ID{Family: nft.Inet, Name: TableName(n)}} }

// Sync makes the table equal to want and returns its changes. A nil want means that
// there should be no table. After an error the table is unchanged. The error is
// nft.ErrUnsupported if the kernel lacks nf_tables or a part of it. Sync reads the
// table only if nf_tables changed, because the table is long with the subnets of
// thousands of nodes.
func (k *Kernel) Sync(want *nft.Table) (changes []string, err error) {
	if k.conn == nil {
		if k.conn, err = nft.Dial(); err != nil {
			return nil, err
		}
		k.keeper = nft.NewKeeper(k.conn, k.id)
	}
	did, err := k.keeper.Sync(want)
	return nft.Texts(did), err
}

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
