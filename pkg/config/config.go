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
	// NodeName is this host's name in the registry.
	NodeName string
	// RunDir is where the daemon and the plugin meet.
	RunDir string
	// Underlay says which interface and address carry the tunnel.
	Underlay Underlay
	// UnderlayFamily is the family of the tunnel's own packets. The zero value is
	// the family of the address that the registry has first for this host.
	UnderlayFamily family.Family
	// MTU is that of pods and tunnel device; 0 follows the underlay's.
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
	// DirectRouting leaves the tunnel out where the other host is on the
	// underlay's own network.
	DirectRouting bool
	Registry      Registry
	VXLAN         tunnel.Config
	// Resync is how often everything is compared when nothing happened.
	Resync time.Duration
	// Health is where HTTP probes are answered; empty for nowhere.
	Health string
	CNI    CNI
	Log    Log
}

// CNI says where the network configuration for the container runtime is kept.
type CNI struct {
	// ConfDir is the runtime's directory; empty, nothing is written.
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
	// HostID tells this machine from another one of its name.
	HostID string
	// PasswordFile is a path: secrets don't belong in configuration or flags.
	PasswordFile string
	// LeaseTime is how long this host's subnet stays its own without a word.
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
	// Interface is a name.
	Interface string
	// Address is one of the host's own.
	Address netip.Addr
	// Reaches is any address: the underlay is whatever the host would use to
	// send there.
	Reaches netip.Addr
}

// reaches is written before the address in the third form of Underlay. No
// interface name can begin like it, since the kernel allows no colon in one.
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
