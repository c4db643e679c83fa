package attachment

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/overlay-cni/overlay-cni/internal/network"
)

// recordVersion is the format that Write writes.
const recordVersion = 1

// Record is what the file of an attachment says: everything that CHECK, the
// daemon and DEL need to know.
type Record struct {
	Version int `json:"version"`
	// Network is the overlay network. Earlier releases didn't write it and
	// had the default network only.
	Network     network.Name `json:"overlayNetwork"`
	CNINetwork  string       `json:"network"` // the name in the CNI configuration
	ContainerID string       `json:"containerID"`
	IfName      string       `json:"ifName"`
	// Pod is namespace/name, or empty if the runtime didn't name the pod.
	Pod       string       `json:"pod,omitempty"`
	Netns     string       `json:"netns"`
	HostName  string       `json:"hostName"` // the host's end of the veth pair
	MAC       string       `json:"mac"`      // of the pod's end
	MTU       int          `json:"mtu"`      // bytes
	Bridge    string       `json:"bridge"`
	Addresses []netip.Addr `json:"addresses"`
	// HostPorts are the pod's ports on the host as the runtime asked for them
	// (runtimeConfig.portMappings of the CNI conventions), empty for none.
	HostPorts json.RawMessage `json:"hostPorts,omitempty"`
	// Guarded says that the pod is kept from sending with the addresses of others,
	// unless the daemon guards no pod. Earlier releases guarded no pod and didn't
	// write it. Their pods stay unguarded until they are made anew, because some of
	// them may send in the name of others.
	Guarded bool `json:"guarded,omitempty"`
	// Unguardable says that the pod was to be guarded, and the kernel couldn't.
	Unguardable bool `json:"unguardable,omitempty"`
}

// Owner returns the interface that the attachment belongs to.
func (r Record) Owner() Owner { return Owner{r.ContainerID, r.IfName} }

// Holds tells whether addr is one of the attachment's addresses.
func (r Record) Holds(addr netip.Addr) bool { return slices.Contains(r.Addresses, addr) }

var (
	// ErrDamaged is for a record that can't be understood. The attachment can
	// still be removed, by its owner's names.
	ErrDamaged = errors.New("damaged attachment record")
	// ErrNewer is for a record of a later version of this program.
	ErrNewer = errors.New("attachment record of a newer version of overlay-cni")
	// ErrEmpty is for an attachment of which nothing is recorded yet: an ADD is
	// at work, or was killed before it touched the kernel.
	ErrEmpty = errors.New("nothing is recorded yet")
)

// text returns the record as Write puts it into the file.
func (r Record) text() ([]byte, error) {
	r.Version = recordVersion
	data, err := json.Marshal(r)
	return append(data, '\n'), err
}

func parseRecord(data []byte) (Record, error) {
	if len(data) == 0 {
		return Record{}, ErrEmpty
	}
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	switch {
	case r.Version > recordVersion:
		return Record{}, fmt.Errorf("%w: format %d, while this version knows formats up to %d", ErrNewer, r.Version, recordVersion)
	case r.Version < 1 || r.ContainerID == "" || r.IfName == "" || len(r.Addresses) == 0:
		return Record{}, fmt.Errorf("%w: version, containerID, ifName or addresses is missing", ErrDamaged)
	case slices.ContainsFunc(r.Addresses, func(a netip.Addr) bool { return !a.IsValid() }):
		return Record{}, fmt.Errorf("%w: one of the addresses is empty", ErrDamaged)
	}
	r.Network = cmp.Or(r.Network, network.Default)
	return r, nil
}
