package etcd

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
)

// machineIDs returns the files that may hold the machine id: the file of systemd,
// then the file of D-Bus for hosts without systemd.
func machineIDs() []string { return []string{"/etc/machine-id", "/var/lib/dbus/machine-id"} }

// machineIDLength is the length of 128 bits in hex (machine-id(5)). systemd writes
// "uninitialized" until the first boot is complete.
const machineIDLength = 32

// identified fills in the host's identity, if none is given.
func (o Options) identified() (Options, error) {
	if o.HostID != "" {
		return o, nil
	}
	var err error
	o.HostID, err = hostIdentity(machineIDs())
	return o, err
}

// hostIdentity returns the hash of the machine id. The machine id itself is
// confidential and must not be sent over the network (machine-id(5)).
func hostIdentity(files []string) (string, error) {
	for _, file := range files {
		data, err := os.ReadFile(file)
		id := strings.TrimSpace(string(data))
		if err != nil || len(id) != machineIDLength {
			continue
		}
		hash := hmac.New(sha256.New, []byte("overlay-cni"))
		hash.Write([]byte(id))
		return hex.EncodeToString(hash.Sum(nil)[:16]), nil
	}
	return "", fmt.Errorf("none of %s holds a machine id, which tells this host from others of the same name: run systemd-machine-id-setup, or set the host's id in the configuration",
		strings.Join(files, ", "))
}
