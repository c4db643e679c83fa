package config

import (
	"log/slog"
	"net/netip"
	"time"
)

// Config is the daemon's configuration, complete and validated.
type Config struct {
	// NodeName is this host's name in the registry.
	NodeName string
	// RunDir is where the daemon and the plugin meet.
	RunDir string
	// Underlay says which interface and address carry the tunnel.
	Underlay Underlay
	// UnderlayFamily is that of the tunnel's own packets, where hosts have both.
	UnderlayFamily Family
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
	VXLAN         VXLAN
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

// VXLAN describes the tunnel, which must be the same on all hosts but for the
// name of the device.
type VXLAN struct {
	Device string
	VNI    uint32
	Port   uint16
	// SourcePorts are those of the tunnel's packets; zero: the kernel's choice.
	SourcePorts PortRange
	// UDPChecksum puts a checksum on the tunnel's packets.
	UDPChecksum bool
	// AcceptZeroChecksum takes packets without one over IPv6 too.
	AcceptZeroChecksum bool
	// TTL is that of the tunnel's packets, 1 to 255; 0 is the host's usual one
	// and InheritTTL that of the packet within.
	TTL               int
	DF                DF
	TxChecksumOffload Offload
}

// PortRange are UDP ports from Low to below High.
type PortRange struct{ Low, High uint16 }

// InheritTTL takes the TTL of the packet within.
const InheritTTL = -1

// DF is what the flag "don't fragment" of the tunnel's packets is, over IPv4.
type DF string

// As ip-link(8) has them.
const (
	DFUnset   DF = "unset"
	DFSet     DF = "set"
	DFInherit DF = "inherit"
)

// Offload says whether the hardware completes checksums within the tunnel.
type Offload string

// Auto is on but where hardware is known to get it wrong.
const (
	OffloadAuto Offload = "auto"
	OffloadOn   Offload = "on"
	OffloadOff  Offload = "off"
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

// Family is an address family, or the choice of one.
type Family string

// Auto is the family of the address that the registry has first for this host.
const (
	FamilyAuto Family = "auto"
	FamilyIPv4 Family = "ipv4"
	FamilyIPv6 Family = "ipv6"
)

// Allows tells whether an address is of the family; auto allows both.
func (f Family) Allows(a netip.Addr) bool {
	switch f {
	case FamilyIPv4:
		return a.Is4()
	case FamilyIPv6:
		return a.Is6()
	}
	return true
}

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
