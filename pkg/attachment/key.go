package attachment

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
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

// Key names an attachment: the attachment's file has this name and the ending
// ".json". A Key has no "/", doesn't start with a dot, and fits a file name,
// whatever the ids are.
type Key string

// Key returns the name of the owner's attachment.
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

// file is the name of the attachment's file.
func (k Key) file() string { return string(k) + ending }

// HostName returns the name of the host's end of the veth pair.
func (k Key) HostName() string { return k.device("veth") }

// ShaperName returns the name of the device that shapes what the pod sends, if
// the pod's bandwidth is limited.
func (k Key) ShaperName() string { return k.device("ifb-") }

// Devices returns the names of all devices on the host that an attachment may
// have.
func (k Key) Devices() []string { return []string{k.HostName(), k.ShaperName()} }

// device returns a name of four letters and 11 digits, which fill the 15 bytes of
// an interface's name.
func (k Key) device(kind string) string {
	hash := binary.BigEndian.AppendUint64(nil, subnet.Hash(string(k)))
	return kind + hex.EncodeToString(hash)[:11]
}

// DevicesOf returns the names of all devices of the attachment whose HostName is
// hostName. It returns nil if hostName can't be a HostName: other programs' veth
// pairs have shorter names.
func DevicesOf(hostName string) []string {
	digits, ok := strings.CutPrefix(hostName, "veth")
	if !ok || len(digits) != 11 || strings.Trim(digits, "0123456789abcdef") != "" {
		return nil
	}
	return []string{hostName, "ifb-" + digits}
}
