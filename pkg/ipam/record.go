package ipam

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/subnet"
)

// Owner is what an attachment belongs to: one interface of one container.
type Owner struct {
	ContainerID string
	IfName      string
}

const (
	// maxID is the longest container id that is part of a file name; longer
	// ones are hashed. Names are at most 255 bytes, and the interface's name,
	// the separator and the ending need 21 of them.
	maxID = 200
	// separator can't be in a container id (CNI specification, section 2).
	separator = "@"
	ending    = ".json"
)

// Key names an attachment: it is its file's name without the ending. It has no
// "/", doesn't start with a dot, and fits a file name, whatever the ids are.
type Key string

// Key is the name of the owner's attachment.
func (o Owner) Key() Key {
	id := o.ContainerID
	if len(id) > maxID || strings.ContainsAny(id, "/"+separator) || strings.HasPrefix(id, ".") {
		id = fmt.Sprintf("id-%016x", subnet.Hash(id))
	}
	name := o.IfName
	if len(name) > 15 || strings.Contains(name, "/") {
		name = fmt.Sprintf("%015x", subnet.Hash(name))[:15]
	}
	return Key(id + separator + name)
}

func (k Key) file() string { return string(k) + ending }

// HostName is the name of the host's end of the veth pair. It follows from the
// key, so that it is found without a record too.
func (k Key) HostName() string { return k.device("veth") }

// SameDevices returns the names of all devices of the attachment that a name
// could be the HostName of, or nil if it can't be one: other programs' veth
// pairs have shorter names.
func SameDevices(hostName string) []string {
	digits, ok := strings.CutPrefix(hostName, "veth")
	if !ok || len(digits) != 11 || strings.Trim(digits, "0123456789abcdef") != "" {
		return nil
	}
	return []string{hostName, "ifb-" + digits}
}

// ShaperName is the name of the device that shapes what the pod sends, if its
// bandwidth is limited.
func (k Key) ShaperName() string { return k.device("ifb-") }

// Devices are the names of all devices on the host that an attachment may
// have.
func (k Key) Devices() []string { return []string{k.HostName(), k.ShaperName()} }

// device is a name of four letters and 11 digits, which fill the 15 bytes that
// an interface's name can have.
func (k Key) device(kind string) string {
	hash := binary.BigEndian.AppendUint64(nil, subnet.Hash(string(k)))
	return kind + hex.EncodeToString(hash)[:11]
}

// recordVersion is the format that is written.
const recordVersion = 1

// Record is an attachment: everything that has to be known to check, mend or
// remove it.
type Record struct {
	Version     int    `json:"version"`
	Network     string `json:"network"` // name in the CNI configuration
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
	// Pod is namespace/name where the runtime told, else empty.
	Pod       string       `json:"pod,omitempty"`
	Netns     string       `json:"netns"`
	HostName  string       `json:"hostName"` // the host's end of the veth pair
	MAC       string       `json:"mac"`      // of the pod's end
	MTU       int          `json:"mtu"`
	Bridge    string       `json:"bridge"`
	Addresses []netip.Addr `json:"addresses"`
	// HostPorts are the pod's ports on the host as the runtime asked for them
	// (runtimeConfig.portMappings of the CNI conventions), empty for none.
	HostPorts json.RawMessage `json:"hostPorts,omitempty"`
}

// text is the record as Write puts it into the file.
func (r Record) text() ([]byte, error) {
	r.Version = recordVersion
	data, err := json.Marshal(r)
	return append(data, '\n'), err
}

// Owner is whose attachment it is.
func (r Record) Owner() Owner { return Owner{r.ContainerID, r.IfName} }

// Holds tells whether addr is one of the attachment's.
func (r Record) Holds(addr netip.Addr) bool { return slices.Contains(r.Addresses, addr) }

var (
	// ErrDamaged is for a record that can't be understood. What it stood for
	// can still be found by its owner.
	ErrDamaged = errors.New("damaged attachment record")
	// ErrNewer is for a record of a later version of this program.
	ErrNewer = errors.New("attachment record of a newer version of overlay-cni")
)

func parseRecord(data []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	switch {
	case r.Version > recordVersion:
		return Record{}, fmt.Errorf("%w: format %d, this one knows %d", ErrNewer, r.Version, recordVersion)
	case r.Version < 1 || r.ContainerID == "" || r.IfName == "" || len(r.Addresses) == 0:
		return Record{}, fmt.Errorf("%w: version, containerID, ifName or addresses is missing", ErrDamaged)
	case slices.ContainsFunc(r.Addresses, func(a netip.Addr) bool { return !a.IsValid() }):
		return Record{}, fmt.Errorf("%w: one of the addresses is empty", ErrDamaged)
	}
	return r, nil
}
