package config

import (
	"log/slog"
	"net/netip"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/tunnel"
)

// Config is the daemon's configuration, complete and validated.
type Config struct {
	// Text is the text of the file that the configuration comes from, without what
	// flags and the registry add; empty without a file.
	Text string
	// NodeName is this host's name in the registry.
	NodeName string
	// RunDir is the directory that the daemon and the plugin share.
	RunDir string
	// Underlay says which interface and address carry the tunnel.
	Underlay Underlay
	// UnderlayFamily is the family of the tunnel's own packets. The zero value stands
	// for the family of this host's first address in the registry.
	UnderlayFamily family.Family
	// MTU is the MTU of pods and tunnel device, in bytes. 0: the underlay's MTU less
	// the tunnel's overhead.
	MTU int
	// Bridge is the name of the pods' bridge.
	Bridge string
	// Masquerade hides pods behind the host's address when they talk to
	// addresses outside of the pod network.
	Masquerade bool
	// NoMasqueradeTo are destinations that see the pods' own addresses. They
	// have no host bits, and may overlap.
	NoMasqueradeTo []netip.Prefix
	// IPTablesForward lets pods' traffic through where the host's iptables
	// rules would drop what is forwarded.
	IPTablesForward bool
	// AntiSpoofing drops what pods send with addresses that are not their own.
	AntiSpoofing bool
	// DirectRouting sends packets to hosts on the underlay's link without the tunnel.
	DirectRouting bool
	Registry      Registry
	VXLAN         tunnel.Config
	// Resync is the longest time between two comparisons of everything with the
	// kernel.
	Resync time.Duration
	// Health is the address at which the daemon answers HTTP probes; empty: none.
	Health string
	CNI    CNI
	Log    Log
}

// CNI says where the network configuration for the container runtime is kept.
type CNI struct {
	// ConfDir is the runtime's directory. If it is empty, nothing is written.
	ConfDir string
	// ConfName is the file's name in it.
	ConfName string
}

// Registry says where the set of nodes comes from.
type Registry struct {
	Type RegistryType
	// File is the path of the nodes file where Type is RegistryFile.
	File string
	// Kubeconfig is the path of a file that says how to reach the Kubernetes
	// API where Type is RegistryKube; empty for a pod's service account.
	Kubeconfig string
	Etcd       Etcd
}

// Etcd says how to reach etcd where Registry.Type is RegistryEtcd.
type Etcd struct {
	Endpoints []string // URLs
	Prefix    string   // of all keys
	// CA, Cert and Key are paths of PEM files, each empty for none.
	CA, Cert, Key string
	Username      string
	// HostID identifies this machine. It differs from the ids of other machines with
	// the same node name.
	HostID string
	// PasswordFile is a path: secrets don't belong in configuration or flags.
	PasswordFile string
	// LeaseTime is how long this host keeps its subnets when it can't reach etcd.
	LeaseTime time.Duration
}

// RegistryType is a kind of registry.
type RegistryType string

// The kinds: a YAML list of nodes, the Kubernetes API, and etcd's API of
// version 3.
const (
	RegistryFile RegistryType = "file"
	RegistryKube RegistryType = "kube"
	RegistryEtcd RegistryType = "etcd"
)

// Log says what the daemon logs, and how.
type Log struct {
	Level  slog.Level
	Format LogFormat
}

// LogFormat is how a line of the log looks.
type LogFormat string

// Text is for people (key=value), JSON for log collectors.
const (
	LogText LogFormat = "text"
	LogJSON LogFormat = "json"
)

// Underlay says how to find the interface and the host's own address on it. At
// most one field is set; none means the interface of the default route.
type Underlay struct {
	// Interface is the interface's name.
	Interface string
	// Address is an address of the interface.
	Address netip.Addr
	// Reaches is an address of another machine. The underlay is the interface over
	// which the host would send to that address.
	Reaches netip.Addr
}

// reaches is the prefix of the setting's third form, to:ADDRESS. No interface name
// begins with it, because the kernel allows no colon in names.
const reaches = "to:"

// underlayAuto is how the zero Underlay is written.
const underlayAuto = "auto"

// String is the form in which the setting is written.
func (u Underlay) String() string {
	switch {
	case u.Interface != "":
		return u.Interface
	case u.Address.IsValid():
		return u.Address.String()
	case u.Reaches.IsValid():
		return reaches + u.Reaches.String()
	}
	return underlayAuto
}
