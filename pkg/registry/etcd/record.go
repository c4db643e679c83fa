package etcd

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

// recordVersion is the version of the format that this package writes. It refuses
// records of newer versions, and ignores unknown fields, so that a later release can
// add fields without a new version.
const recordVersion = 1

// record is the value of a node's key.
type record struct {
	Version int `json:"version"`
	// Host is the identity of the machine.
	Host string `json:"host"`
	// Instance identifies the process that wrote the record.
	Instance  string         `json:"instance"`
	Addresses []netip.Addr   `json:"addresses"`
	Subnets   []netip.Prefix `json:"subnets"`
}

// holder is the value of a subnet's key.
type holder struct {
	Node string `json:"node"`
	Host string `json:"host"` // the identity of the machine
}

func parseRecord(data []byte) (record, error) {
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return record{}, err
	}
	switch {
	case r.Version > recordVersion:
		return record{}, fmt.Errorf("format %d is newer than the %d that this overlayd knows: update it", r.Version, recordVersion)
	case r.Version < 1 || len(r.Addresses) == 0 || len(r.Subnets) == 0:
		return record{}, errors.New("version, addresses or subnets are missing")
	}
	return r, nil
}

// encode returns a value as JSON. Values of these two types can always be encoded.
func encode[T record | holder](v T) string {
	data, _ := json.Marshal(v)
	return string(data)
}

// entry is a node's key: the value, and what etcd says about it.
type entry struct {
	record
	name     string
	modified int64 // the revision at which it was written
	lease    clientv3.LeaseID
}

func (e entry) node() registry.Node {
	return registry.Node{Name: e.name, Addresses: e.Addresses, Subnets: e.Subnets}
}

// inSet returns the entry for the registry's set. If two nodes contradict each
// other, the one written later stays: after a host was reinstalled under another
// name, the entry with its old name exists until its lease ends.
func (e entry) inSet(err error) registry.Entry {
	return registry.Entry{Node: e.node(), Rank: -e.modified, Err: err}
}

// keyError says which key an error is about, and what to do with the key.
func keyError(key string, err error) error {
	return fmt.Errorf("%s in etcd: %w: delete the key (its host writes it again), or mend it", key, err)
}
