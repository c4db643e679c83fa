package config

import (
	"log/slog"
	"net/netip"
	"strings"
	"time"
	"unicode"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/tunnel"
	"github.com/overlay-cni/overlay-cni/pkg/cnifiles"
)

// setting is all there is to know about one setting.
type setting struct {
	// key is its name in the file; a dot is a level of nesting.
	key string
	// kind is a word for the setting's values, for the help and for messages.
	kind  string
	usage string
	// fallback is the default, as a user would write it. If the default is not a
	// constant, fallback is empty and computed describes the default.
	fallback string
	computed string
	// add parses, validates and stores one value. For a list it adds one item.
	add func(*Config, string) error
	// shared says that a registry can set it for all hosts.
	shared bool
	// clear empties a list before the items of another source are added. It
	// is nil for a setting with a single value.
	clear func(*Config)
}

// flag is the name of the setting's flag: log.level is --log-level and
// nodeName --node-name.
func (s setting) flag() string {
	var b strings.Builder
	for _, r := range s.key {
		switch {
		case r == '.':
			b.WriteByte('-')
		case unicode.IsUpper(r):
			b.WriteByte('-')
			b.WriteRune(unicode.ToLower(r))
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// shown is the default as people read it.
func (s setting) shown() string {
	if s.computed != "" {
		return s.computed
	}
	return s.fallback
}

// removedSettings are keys of former versions, and what to do about each.
func removedSettings() map[string]string {
	return map[string]string{
		"firewall": "remove it: overlayd always masquerades by nftables, which needs Linux 5.4 or newer. " +
			"If the value was iptables, reboot the host: that removes the chains OVERLAY-CNI-POSTRTG and OVERLAY-CNI-OUTPUT",
	}
}

// kindBool is the kind of settings whose flag needs no value.
const kindBool = "true|false"

// settings is the table.
func settings() []setting {
	var all []setting
	for _, group := range [][]setting{hostSettings(), podSettings(), registrySettings(), etcdSettings(), vxlanSettings(), logSettings()} {
		all = append(all, group...)
	}
	return all
}

func hostSettings() []setting {
	return []setting{{
		key: "nodeName", kind: "name", computed: "the host name",
		usage: "this host's name in the registry",
		add:   store(parseNodeName, func(c *Config) *string { return &c.NodeName }),
	}, {
		key: "runDir", kind: "path", fallback: "/run/overlay-cni",
		usage: "directory that daemon and plugin share, on a tmpfs; the plugin's runDir must be the same",
		add:   store(parseRunDir, func(c *Config) *string { return &c.RunDir }),
	}, {
		key: "underlay", kind: "underlay", fallback: underlayAuto,
		usage: "interface that carries the tunnel: its name, one of its addresses, to:ADDRESS (the interface over which the host sends to that address), or auto (the interface with this host's address from the registry, else the interface of the default route)",
		add:   store(parseUnderlay, func(c *Config) *Underlay { return &c.Underlay }),
	}, {
		key: "underlayFamily", kind: "family", fallback: auto,
		shared: true,
		usage:  "address family of the tunnel's own packets if hosts have both: ipv4, ipv6, or auto (the family of this host's first address in the registry); must be the same on all hosts",
		add:    store(parseFamily, func(c *Config) *family.Family { return &c.UnderlayFamily }),
	}, {
		key: "resync", kind: "duration", fallback: "30s",
		usage: "interval at which to compare everything with the kernel, beside the comparisons after changes",
		add:   store(parseResync, func(c *Config) *time.Duration { return &c.Resync }),
	}, {
		key: "health.address", kind: "address", computed: "none",
		usage: "address and port at which to answer HTTP probes, /healthz and /readyz, such as 127.0.0.1:9479",
		add:   store(parseListen, func(c *Config) *string { return &c.Health }),
	}, {
		key: "cni.confDir", kind: "path", computed: "none",
		usage: "the container runtime's directory of network configurations, such as /etc/cni/net.d; the daemon writes ours there as soon as pods can be connected",
		add:   store(parseConfDir, func(c *Config) *string { return &c.CNI.ConfDir }),
	}, {
		key: "cni.confName", kind: "name", fallback: cnifiles.DefaultConfName,
		usage: "name of the network configuration in cni.confDir; the runtime uses the file whose name sorts first",
		add:   store(parseConfName, func(c *Config) *string { return &c.CNI.ConfName }),
	}}
}

func podSettings() []setting {
	return []setting{{
		key: "mtu", kind: "bytes", fallback: "0",
		shared: true,
		usage:  "MTU of pods and tunnel device, 576 to 65535 and with IPv6 at least 1280; 0 means the underlay's MTU less the tunnel's overhead",
		add:    store(parseMTU, func(c *Config) *int { return &c.MTU }),
	}, {
		key: "bridge", kind: "name", fallback: "cni0",
		usage: "bridge that the pods are attached to",
		add:   store(parseDevice, func(c *Config) *string { return &c.Bridge }),
	}, {
		key: "masquerade", kind: kindBool, fallback: "true",
		shared: true,
		usage:  "give the host's address to what pods send out of the pod network",
		add:    store(parseBool, func(c *Config) *bool { return &c.Masquerade }),
	}, {
		key: "noMasqueradeTo", kind: "networks", computed: "none",
		shared: true,
		usage:  "destinations outside of the pod network that see the pods' own addresses, such as 192.168.0.0/16",
		add:    appendTo(parseNetwork, func(c *Config) *[]netip.Prefix { return &c.NoMasqueradeTo }),
		clear:  func(c *Config) { c.NoMasqueradeTo = nil },
	}, {
		key: "iptablesForward", kind: kindBool, fallback: "true",
		usage: "let pods' traffic through where the host's iptables rules drop what is forwarded, as Docker's do",
		add:   store(parseBool, func(c *Config) *bool { return &c.IPTablesForward }),
	}, {
		key: "antiSpoofing", kind: kindBool, fallback: "true",
		shared: true,
		usage:  "drop what pods send with MAC or IP addresses that are not their own; the plugin's antiSpoofing exempts the pods of one network configuration",
		add:    store(parseBool, func(c *Config) *bool { return &c.AntiSpoofing }),
	}, {
		key: "directRouting", kind: kindBool, fallback: "false",
		shared: true,
		usage:  "route to hosts on the underlay's own network without the tunnel",
		add:    store(parseBool, func(c *Config) *bool { return &c.DirectRouting }),
	}}
}

func registrySettings() []setting {
	return []setting{{
		key: "registry.type", kind: "registry", fallback: string(RegistryFile),
		usage: "where the set of nodes comes from: file, kube (the Kubernetes API) or etcd",
		add:   store(oneOf(RegistryFile, RegistryKube, RegistryEtcd), func(c *Config) *RegistryType { return &c.Registry.Type }),
	}, {
		key: "registry.file", kind: "path", fallback: "/etc/overlay-cni/nodes.yaml",
		usage: "the nodes file, with registry.type file; watched for edits",
		add:   store(parsePath, func(c *Config) *string { return &c.Registry.File }),
	}, {
		key: "registry.kubeconfig", kind: "path", computed: "the pod's service account",
		usage: "how to reach the Kubernetes API, with registry.type kube",
		add:   store(parsePath, func(c *Config) *string { return &c.Registry.Kubeconfig }),
	}}
}

func etcdSettings() []setting {
	path := func(key, usage string, field func(*Config) *string) setting {
		return setting{key: "registry.etcd." + key, kind: "path", computed: "none", usage: usage, add: store(parsePath, field)}
	}
	return []setting{{
		key: "registry.etcd.endpoints", kind: "urls", fallback: "http://127.0.0.1:2379",
		usage: "etcd's members, with registry.type etcd",
		add:   appendTo(parseEndpoint, func(c *Config) *[]string { return &c.Registry.Etcd.Endpoints }),
		clear: func(c *Config) { c.Registry.Etcd.Endpoints = nil },
	}, {
		key: "registry.etcd.prefix", kind: "key", fallback: "/overlay-cni",
		usage: "prefix of all keys of this network",
		add:   store(parsePrefix, func(c *Config) *string { return &c.Registry.Etcd.Prefix }),
	},
		path("ca", "CA certificates for etcd's certificate (PEM)", func(c *Config) *string { return &c.Registry.Etcd.CA }),
		path("cert", "this host's certificate for etcd (PEM)", func(c *Config) *string { return &c.Registry.Etcd.Cert }),
		path("key", "the key of that certificate (PEM)", func(c *Config) *string { return &c.Registry.Etcd.Key }),
		{
			key: "registry.etcd.username", kind: "name", computed: "none",
			usage: "user of etcd",
			add:   store(parseWord, func(c *Config) *string { return &c.Registry.Etcd.Username }),
		},
		{
			key: "registry.etcd.hostId", kind: "id", computed: "from /etc/machine-id",
			usage: "id of this machine, different from other machines with the same node name; must stay the same over reboots",
			add:   store(parseWord, func(c *Config) *string { return &c.Registry.Etcd.HostID }),
		},
		path("passwordFile", "file with the password of registry.etcd.username", func(c *Config) *string { return &c.Registry.Etcd.PasswordFile }),
		{
			key: "registry.etcd.leaseTime", kind: "duration", fallback: "1h",
			usage: "how long this host keeps its pod subnets when it can't reach etcd",
			add:   store(parseLease, func(c *Config) *time.Duration { return &c.Registry.Etcd.LeaseTime }),
		}}
}

func vxlanSettings() []setting {
	return []setting{{
		key: "vxlan.device", kind: "name", fallback: "overlay0",
		usage: "name of the tunnel device",
		add:   store(parseDevice, func(c *Config) *string { return &c.VXLAN.Device }),
	}, {
		key: "vxlan.vni", kind: "number", fallback: "1",
		shared: true,
		usage:  "VXLAN network identifier, 1 to 16777215; the same on all hosts",
		add:    store(parseVNI, func(c *Config) *uint32 { return &c.VXLAN.VNI }),
	}, {
		key: "vxlan.port", kind: "number", fallback: "4789",
		shared: true,
		usage:  "UDP port of the tunnel, 1 to 65535; the same on all hosts",
		add:    store(parsePort, func(c *Config) *uint16 { return &c.VXLAN.Port }),
	}, {
		key: "vxlan.sourcePorts", kind: "ports", fallback: auto,
		shared: true,
		usage:  "range of UDP source ports, LOW-HIGH without HIGH itself, from which each flow gets one; auto is the host's ip_local_port_range",
		add:    store(parsePorts, func(c *Config) *tunnel.PortRange { return &c.VXLAN.SourcePorts }),
	}, {
		key: "vxlan.udpChecksum", kind: kindBool, fallback: "true",
		shared: true,
		usage:  "put a checksum on the tunnel's packets; over IPv6, false needs acceptZeroChecksum on all hosts first",
		add:    store(parseNot, func(c *Config) *bool { return &c.VXLAN.ZeroChecksum }),
	}, {
		key: "vxlan.acceptZeroChecksum", kind: kindBool, fallback: "false",
		shared: true,
		usage:  "take packets without a checksum over IPv6, as is done over IPv4",
		add:    store(parseBool, func(c *Config) *bool { return &c.VXLAN.AcceptZeroChecksum }),
	}, {
		key: "vxlan.ttl", kind: "ttl", fallback: auto,
		shared: true,
		usage:  "TTL or hop limit of the tunnel's packets, 1 to 255; auto (the host's default), or inherit (the inner packet's)",
		add:    store(parseTTL, func(c *Config) *tunnel.TTL { return &c.VXLAN.TTL }),
	}, {
		key: "vxlan.tos", kind: "tos", fallback: "0",
		shared: true,
		usage:  "type of service or traffic class of the tunnel's packets: a multiple of 4 up to 252 (DSCP times 4), or inherit (the inner packet's); ECN is always the inner packet's",
		add:    store(parseTOS, func(c *Config) *tunnel.TOS { return &c.VXLAN.TOS }),
	}, {
		key: "vxlan.df", kind: "df", fallback: tunnel.DFUnset.String(),
		shared: true,
		usage:  "the flag \"don't fragment\" of the tunnel's packets over IPv4: unset, set, or inherit from the inner packet",
		add:    store(oneOf(tunnel.DFUnset, tunnel.DFSet, tunnel.DFInherit), func(c *Config) *tunnel.DF { return &c.VXLAN.DF }),
	}, {
		key: "vxlan.checkSource", kind: kindBool, fallback: "true",
		shared: true,
		usage:  "take the tunnel's packets from other hosts' addresses in the registry alone; false is for networks that translate hosts' addresses",
		add:    store(parseNot, func(c *Config) *bool { return &c.VXLAN.AnySource }),
	}, {
		key: "vxlan.notrack", kind: kindBool, fallback: "true",
		shared: true,
		usage:  "keep the tunnel's packets out of connection tracking, which would have an entry for each flow in the tunnel",
		add:    store(parseNot, func(c *Config) *bool { return &c.VXLAN.Tracked }),
	}, {
		key: "vxlan.txChecksumOffload", kind: "offload", fallback: tunnel.OffloadAuto.String(),
		usage: "leave checksums within the tunnel to the hardware: on, off, or auto (off over vmxnet3, which gets them wrong)",
		add:   store(oneOf(tunnel.OffloadAuto, tunnel.OffloadOn, tunnel.OffloadOff), func(c *Config) *tunnel.Offload { return &c.VXLAN.TxChecksum }),
	}}
}

func logSettings() []setting {
	return []setting{{
		key: "log.level", kind: "level", fallback: "info",
		usage: "what is logged: debug, info, warn or error",
		add:   store(parseLevel, func(c *Config) *slog.Level { return &c.Log.Level }),
	}, {
		key: "log.format", kind: "format", fallback: string(LogText),
		usage: "how a line of the log looks: text or json",
		add:   store(oneOf(LogText, LogJSON), func(c *Config) *LogFormat { return &c.Log.Format }),
	}}
}

// store makes the add function of a setting with one value. A value with a mistake
// leaves the field unchanged.
func store[T any](parse func(string) (T, error), field func(*Config) *T) func(*Config, string) error {
	return func(c *Config, text string) error {
		v, err := parse(text)
		if err == nil {
			*field(c) = v
		}
		return err
	}
}

// appendTo makes the add function of a list.
func appendTo[T any](parse func(string) (T, error), field func(*Config) *[]T) func(*Config, string) error {
	return func(c *Config, text string) error {
		v, err := parse(text)
		if err == nil {
			*field(c) = append(*field(c), v)
		}
		return err
	}
}
