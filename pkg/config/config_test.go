package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/tunnel"
)

// equalConfigs makes cmp look into netip values. The text is not a setting.
func equalConfigs() cmp.Option {
	return cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.IgnoreFields(Config{}, "Text")}
}

// load runs the loader as the daemon does, on a host called this-host. path is
// the configuration file, empty for none.
func load(t testing.TB, path string, args ...string) (Config, error) {
	t.Helper()
	flags := pflag.NewFlagSet("overlayd", pflag.ContinueOnError)
	loader := AddFlags(flags)
	loader.hostname = func() (string, error) { return "this-host", nil }
	if path != "" {
		args = append([]string{"--config", path}, args...)
	}
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return loader.Load()
}

// loadText is load with a file of this text in the working directory.
func loadText(t testing.TB, text string, args ...string) (Config, error) {
	t.Helper()
	if err := os.WriteFile("c.yaml", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return load(t, "c.yaml", args...)
}

func defaults() Config {
	return Config{
		NodeName:   "this-host",
		RunDir:     "/run/overlay-cni",
		Bridge:     "cni0",
		Masquerade: true,
		Registry: Registry{
			Type: RegistryFile, File: "/etc/overlay-cni/nodes.yaml",
			Etcd: Etcd{Endpoints: []string{"http://127.0.0.1:2379"}, Prefix: "/overlay-cni", LeaseTime: time.Hour},
		},
		IPTablesForward: true,
		AntiSpoofing:    true,
		VXLAN:           tunnel.Config{Device: "overlay0", VNI: 1, Port: 4789},
		UnderlayFamily:  0,
		Resync:          30 * time.Second,
		CNI:             CNI{ConfName: "10-overlay-cni.conflist"},
		Log:             Log{Level: slog.LevelInfo, Format: LogText},
	}
}

func TestDefaults(t *testing.T) {
	got, err := load(t, "")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(defaults(), got, equalConfigs()); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
}

const full = `nodeName: host-a
runDir: /tmp/run/
underlay: to:192.168.77.2
underlayFamily: ipv4
mtu: 1400
bridge: br7
masquerade: false
noMasqueradeTo: [10.0.0.0/8, "fd00::/8"]
registry:
  type: etcd
  file: nodes.yaml
  kubeconfig: /etc/kube.yaml
  etcd:
    endpoints: ["https://10.0.0.1:2379", "https://[fd00::1]:2379"]
    prefix: /net/a
    ca: ca.pem
    cert: cert.pem
    key: key.pem
    username: overlay
    hostId: vm-7
    passwordFile: /etc/password
    leaseTime: 24h
health: {address: "127.0.0.1:9479"}
cni: {confDir: /etc/cni/net.d, confName: 05-x.conflist}
vxlan:
  device: vx7
  vni: 16777215
  port: 65535
  sourcePorts: 40000-50000
  udpChecksum: false
  acceptZeroChecksum: true
  ttl: inherit
  df: set
  tos: inherit
  checkSource: false
  notrack: false
  txChecksumOffload: "off"
iptablesForward: false
antiSpoofing: false
directRouting: true
resync: 1m30s
log: {level: debug, format: json}
`

func fullConfig() Config {
	return Config{
		NodeName:       "host-a",
		RunDir:         "/tmp/run",
		Underlay:       Underlay{Reaches: netip.MustParseAddr("192.168.77.2")},
		UnderlayFamily: family.IPv4,
		MTU:            1400,
		Bridge:         "br7",
		NoMasqueradeTo: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")},
		Registry: Registry{
			Type: RegistryEtcd, File: "nodes.yaml", Kubeconfig: "/etc/kube.yaml",
			Etcd: Etcd{
				Endpoints: []string{"https://10.0.0.1:2379", "https://[fd00::1]:2379"}, Prefix: "/net/a",
				CA: "ca.pem", Cert: "cert.pem", Key: "key.pem", Username: "overlay", HostID: "vm-7", PasswordFile: "/etc/password", LeaseTime: 24 * time.Hour,
			},
		},
		Health:        "127.0.0.1:9479",
		CNI:           CNI{ConfDir: "/etc/cni/net.d", ConfName: "05-x.conflist"},
		DirectRouting: true,
		VXLAN: tunnel.Config{
			Device: "vx7", VNI: 16777215, Port: 65535, TxChecksum: tunnel.OffloadOff, AnySource: true, Tracked: true,
			Options: tunnel.Options{
				SourcePorts: tunnel.PortRange{Low: 40000, High: 50000}, ZeroChecksum: true, AcceptZeroChecksum: true,
				TTL: tunnel.InheritTTL, DF: tunnel.DFSet, TOS: tunnel.InheritTOS,
			},
		},
		Resync: 90 * time.Second,
		Log:    Log{Level: slog.LevelDebug, Format: LogJSON},
	}
}

func TestFileAndFlagsMeanTheSame(t *testing.T) {
	t.Chdir(t.TempDir())
	fromFile, err := loadText(t, full)
	if err != nil {
		t.Fatal(err)
	}
	fromFlags, err := load(t, "",
		"--node-name=host-a", "--run-dir=/tmp/run/", "--underlay=to:192.168.77.2", "--underlay-family=ipv4", "--mtu=1400", "--bridge=br7",
		"--masquerade=false", "--no-masquerade-to=10.0.0.0/8", "--no-masquerade-to=fd00::/8", "--registry-type=etcd",
		"--registry-file=nodes.yaml", "--registry-kubeconfig=/etc/kube.yaml",
		"--registry-etcd-endpoints=https://10.0.0.1:2379,https://[fd00::1]:2379", "--registry-etcd-prefix=/net/a",
		"--registry-etcd-ca=ca.pem", "--registry-etcd-cert=cert.pem", "--registry-etcd-key=key.pem",
		"--registry-etcd-username=overlay", "--registry-etcd-host-id=vm-7", "--registry-etcd-password-file=/etc/password", "--registry-etcd-lease-time=24h",
		"--health-address=127.0.0.1:9479", "--cni-conf-dir=/etc/cni/net.d", "--cni-conf-name=05-x.conflist", "--vxlan-device=vx7", "--vxlan-vni=16777215", "--vxlan-port=65535",
		"--vxlan-source-ports=40000-50000", "--vxlan-udp-checksum=false", "--vxlan-accept-zero-checksum", "--vxlan-ttl=inherit",
		"--vxlan-df=set", "--vxlan-tos=inherit", "--vxlan-check-source=false", "--vxlan-notrack=false", "--vxlan-tx-checksum-offload=off", "--iptables-forward=false", "--anti-spoofing=false", "--direct-routing",
		"--resync=1m30s", "--log-level=debug", "--log-format=json")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fullConfig(), fromFile, equalConfigs()); diff != "" {
		t.Errorf("from the file (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(fullConfig(), fromFlags, equalConfigs()); diff != "" {
		t.Errorf("from flags (-want +got):\n%s", diff)
	}
}

func TestPrecedence(t *testing.T) {
	t.Chdir(t.TempDir())
	tests := map[string]struct {
		file string
		args []string
		want func(*Config)
	}{
		"empty file":              {"", nil, func(*Config) {}},
		"comments only":           {"# mtu: 1400\n", nil, func(*Config) {}},
		"section without lines":   {"vxlan:\n  # vni: 7\nlog: {}\n", nil, func(*Config) {}},
		"file over default":       {"mtu: 1400\n", nil, func(c *Config) { c.MTU = 1400 }},
		"flag over file":          {"mtu: 1400\n", []string{"--mtu", "1300"}, func(c *Config) { c.MTU = 1300 }},
		"flag of the default":     {"mtu: 1400\n", []string{"--mtu", "0"}, func(*Config) {}},
		"last of a repeated flag": {"", []string{"--mtu", "1300", "--mtu=1200"}, func(c *Config) { c.MTU = 1200 }},
		"only the last counts":    {"", []string{"--mtu=x", "--mtu=1200"}, func(c *Config) { c.MTU = 1200 }},
		"quoted in YAML":          {"mtu: \"1400\"\n", nil, func(c *Config) { c.MTU = 1400 }},
		"number as a name":        {"nodeName: 12\n", nil, func(c *Config) { c.NodeName = "12" }},
		"empty name":              {"nodeName: ''\n", nil, func(*Config) {}},
		"flag without a value":    {"masquerade: false\n", []string{"--masquerade"}, func(*Config) {}},
		"list of a flag replaces that of the file": {"noMasqueradeTo: [10.0.0.0/8]\n",
			[]string{"--no-masquerade-to", "fd00::/8, fc00::/7"}, func(c *Config) {
				c.NoMasqueradeTo = []netip.Prefix{netip.MustParsePrefix("fd00::/8"), netip.MustParsePrefix("fc00::/7")}
			}},
		"empty flag empties the list": {"noMasqueradeTo: [10.0.0.0/8]\n", []string{"--no-masquerade-to="}, func(*Config) {}},
		"the file's clash of names is mended by a flag": {"bridge: overlay0\n", []string{"--vxlan-device", "vx0"},
			func(c *Config) { c.Bridge, c.VXLAN.Device = "overlay0", "vx0" }},
		"names swapped": {"bridge: overlay0\nvxlan: {device: cni0}\n", nil,
			func(c *Config) { c.Bridge, c.VXLAN.Device = "overlay0", "cni0" }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := loadText(t, tt.file, tt.args...)
			if err != nil {
				t.Fatal(err)
			}
			want := defaults()
			tt.want(&want)
			if diff := cmp.Diff(want, got, equalConfigs()); diff != "" {
				t.Errorf("configuration (-want +got):\n%s", diff)
			}
		})
	}
}

func TestUnderlayForms(t *testing.T) {
	for text, want := range map[string]Underlay{
		"auto":            {},
		"eth0":            {Interface: "eth0"},
		"10":              {Interface: "10"},
		"192.168.77.1":    {Address: netip.MustParseAddr("192.168.77.1")},
		"fd00::1":         {Address: netip.MustParseAddr("fd00::1")},
		"to:192.168.77.1": {Reaches: netip.MustParseAddr("192.168.77.1")},
		"to:fd00::1":      {Reaches: netip.MustParseAddr("fd00::1")},
	} {
		got, err := load(t, "", "--underlay", text)
		if err != nil || got.Underlay != want {
			t.Errorf("%s: got %+v, %v; want %+v", text, got.Underlay, err, want)
		}
		if got.Underlay.String() != text {
			t.Errorf("%s is written as %s", text, got.Underlay)
		}
	}
}

// Each line of an error is one mistake. The tests together have all mistakes.
func TestLoadRefusesFile(t *testing.T) {
	t.Chdir(t.TempDir())
	const device = "expected a device name: 1 to 15 characters without '/', ':', '%' and white space"
	const keys = "nodeName, runDir, underlay, underlayFamily, resync, health, cni, mtu, bridge, masquerade, noMasqueradeTo, iptablesForward, antiSpoofing, directRouting, registry, vxlan, log"
	const taken = "the kernel uses this name for something else: choose another device name"
	tests := map[string]struct{ text, want string }{
		"unknown key": {"mut: 1400\n", `c.yaml:1:1: unknown key "mut": did you mean "mtu"?`},
		"unknown key in a section": {"vxlan:\n  prot: 1\n",
			`c.yaml:2:3: vxlan: unknown key "prot": did you mean "vxlan.port"?`},
		"key of a section outside of it": {"vni: 7\n", `c.yaml:1:1: unknown key "vni": write "vni" inside the mapping "vxlan"`},
		"removed key": {"firewall: iptables\n", `c.yaml:1:1: unknown key "firewall": remove it: overlayd always masquerades by nftables, which needs Linux 5.4 or newer. ` +
			"If the value was iptables, reboot the host: that removes the chains OVERLAY-CNI-POSTRTG and OVERLAY-CNI-OUTPUT"},
		"key with a dot": {"vxlan.vni: 7\n", `c.yaml:1:1: unknown key "vxlan.vni": write "vni" inside the mapping "vxlan"`},
		"key like no other": {"colour: red\n",
			`c.yaml:1:1: unknown key "colour": the keys here are ` + keys},
		"key like no other in a section": {"log: {colour: red}\n",
			`c.yaml:1:7: log: unknown key "colour": the keys here are level, format`},
		"merge key":     {"<<: {mtu: 1}\n", `c.yaml:1:1: unknown key "<<": the keys here are ` + keys},
		"duplicate key": {"mtu: 1400\nbridge: b\nmtu: 1500\n", `c.yaml:3:1: mtu: given twice, first in line 1: keep one`},
		"duplicate section": {"vxlan: {vni: 1}\nvxlan: {vni: 2}\n",
			`c.yaml:2:1: vxlan: given twice, first in line 1: keep one`},
		"no mapping": {"- mtu: 1400\n",
			`c.yaml:1:1: expected a mapping with the keys ` + keys + `, found a list`},
		"value for a section": {"vxlan: 7\n", `c.yaml:1:8: vxlan: expected a mapping with the keys device, vni, port, sourcePorts, udpChecksum, acceptZeroChecksum, ttl, tos, df, checkSource, notrack, txChecksumOffload, found "7"`},
		"mapping for a value": {"mtu: {a: b}\n", `c.yaml:1:6: mtu: expected one value (bytes), found a mapping`},
		"list for a value":    {"mtu:\n- 1400\n", `c.yaml:2:1: mtu: expected one value (bytes), found a list`},
		"no value":            {"mtu:\n", `c.yaml:1:5: mtu: has no value: write one value (bytes), or remove the line`},
		"value for a list":    {"noMasqueradeTo: 10.0.0.0/8\n", `c.yaml:1:17: noMasqueradeTo: expected a list of networks, found "10.0.0.0/8"`},
		"alias":               {"bridge: &b br0\nvxlan: {device: *b}\n", `c.yaml:2:17: vxlan.device: expected one value (name), found the alias *b: write the value itself`},
		"tag":                 {"bridge: !!binary YnIw\n", `c.yaml:1:9: bridge: expected one value (name), found the tag "!!binary": remove the tag`},
		"second document":     {"mtu: 1400\n---\nmtu: 1500\n", `c.yaml:2:1: a second document begins here: keep one, and remove the line ---`},
		"malformed":           {"mtu: 1400\nbridge cni0\nvxlan: {}\n", `c.yaml:2: malformed YAML: could not find expected ':': check indentation, quotes and brackets near this place`},

		"node name":                 {"nodeName: a b\n", `c.yaml:1:11: nodeName: "a b" is not a node name: write 1 to 253 letters, digits, '-', '_' and '.', beginning with a letter or digit`},
		"run directory, relative":   {"runDir: run\n", `c.yaml:1:9: runDir: "run": expected the absolute path of a directory for overlay-cni alone, such as /run/overlay-cni`},
		"run directory, the root":   {"runDir: /run/..\n", `c.yaml:1:9: runDir: "/run/..": expected the absolute path of a directory for overlay-cni alone, such as /run/overlay-cni`},
		"run directory with a zero": {`runDir: "/run/\0"`, `c.yaml:1:9: runDir: "/run/\x00": expected the absolute path of a directory for overlay-cni alone, such as /run/overlay-cni`},
		"resync":                    {"resync: 30ms\n", `c.yaml:1:9: resync: "30ms": expected a duration of at least 1s, such as 30s or 5m`},
		"resync without unit":       {"resync: 30\n", `c.yaml:1:9: resync: "30": expected a duration of at least 1s, such as 30s or 5m`},
		"underlay":                  {"underlay: a/b\n", `c.yaml:1:11: underlay: "a/b": expected auto, the name of an interface, an address, or to:ADDRESS`},
		"underlay to a name":        {"underlay: to:eth0\n", `c.yaml:1:11: underlay: "to:eth0": expected an address of another machine, such as to:192.168.77.2`},
		"underlay to nothing":       {"underlay: 'to:'\n", `c.yaml:1:11: underlay: "to:": expected an address of another machine, such as to:192.168.77.2`},
		"underlay to loopback":      {"underlay: to:127.0.0.1\n", `c.yaml:1:11: underlay: address 127.0.0.1 is a loopback address: give the address by which the other hosts reach this host`},
		"underlay, loopback":        {"underlay: 127.0.0.1\n", `c.yaml:1:11: underlay: address 127.0.0.1 is a loopback address: give the address by which the other hosts reach this host`},

		"mtu, small":       {"mtu: 575\n", `c.yaml:1:6: mtu: "575": expected 0 (from the underlay), or 576 to 65535`},
		"mtu, large":       {"mtu: 65536\n", `c.yaml:1:6: mtu: "65536": expected 0 (from the underlay), or 576 to 65535`},
		"mtu, a word":      {"mtu: big\n", `c.yaml:1:6: mtu: "big": expected 0 (from the underlay), or 576 to 65535`},
		"vni 0":            {"vxlan: {vni: 0}\n", `c.yaml:1:14: vxlan.vni: "0": expected a whole number from 1 to 16777215`},
		"vni of 25 bits":   {"vxlan: {vni: 16777216}\n", `c.yaml:1:14: vxlan.vni: "16777216": expected a whole number from 1 to 16777215`},
		"vni, octal":       {"vxlan: {vni: 010}\n", `c.yaml:1:14: vxlan.vni: "010": expected a whole number from 1 to 16777215`},
		"vni, hexadecimal": {"vxlan: {vni: 0x10}\n", `c.yaml:1:14: vxlan.vni: "0x10": expected a whole number from 1 to 16777215`},
		"vni, broken":      {"vxlan: {vni: 1.5}\n", `c.yaml:1:14: vxlan.vni: "1.5": expected a whole number from 1 to 16777215`},
		"port 0":           {"vxlan: {port: 0}\n", `c.yaml:1:15: vxlan.port: "0": expected a whole number from 1 to 65535`},
		"port, large":      {"vxlan: {port: 65536}\n", `c.yaml:1:15: vxlan.port: "65536": expected a whole number from 1 to 65535`},
		"masquerade":       {"masquerade: yes\n", `c.yaml:1:13: masquerade: "yes": expected true or false`},
		"registry type":    {"registry: {type: consul}\n", `c.yaml:1:18: registry.type: "consul": expected file, kube or etcd`},
		"etcd endpoint": {"registry: {etcd: {endpoints: [etcd-1, 'http://a', 'https://a:1/b']}}\n",
			`c.yaml:1:31: registry.etcd.endpoints[0]: "etcd-1": expected the URL of an etcd member, such as https://192.168.77.10:2379
c.yaml:1:39: registry.etcd.endpoints[1]: "http://a": expected the URL of an etcd member, such as https://192.168.77.10:2379
c.yaml:1:51: registry.etcd.endpoints[2]: "https://a:1/b": expected the URL of an etcd member, such as https://192.168.77.10:2379`},
		"etcd prefix":           {"registry: {etcd: {prefix: a}}\n", `c.yaml:1:27: registry.etcd.prefix: "a": expected a prefix for keys, such as /overlay-cni`},
		"etcd lease":            {"registry: {etcd: {leaseTime: 1s}}\n", `c.yaml:1:30: registry.etcd.leaseTime: "1s": expected a duration of at least 1m0s, such as 1h or 24h`},
		"etcd user":             {"registry: {etcd: {username: ''}}\n", `c.yaml:1:29: registry.etcd.username: "": expected a word`},
		"health address":        {"health: {address: 9479}\n", `c.yaml:1:19: health.address: "9479": expected an address and a port, such as 127.0.0.1:9479 or :9479`},
		"conf directory":        {"cni: {confDir: net.d}\n", `c.yaml:1:16: cni.confDir: "net.d": expected an absolute path, such as /etc/cni/net.d`},
		"conf name":             {"cni: {confName: x.conf}\n", `c.yaml:1:17: cni.confName: "x.conf": expected a file name that ends in .conflist, such as 10-overlay-cni.conflist`},
		"health name":           {"health: {address: 'localhost:1'}\n", `c.yaml:1:19: health.address: "localhost:1": expected an address and a port, such as 127.0.0.1:9479 or :9479`},
		"registry file":         {"registry: {file: ''}\n", `c.yaml:1:18: registry.file: "": expected the path of a file`},
		"log level":             {"log: {level: INFO}\n", `c.yaml:1:14: log.level: "INFO": expected debug, info, warn or error`},
		"log format":            {"log: {format: xml}\n", `c.yaml:1:15: log.format: "xml": expected text or json`},
		"bridge, 16 letters":    {"bridge: a234567890123456\n", `c.yaml:1:9: bridge: "a234567890123456": ` + device},
		"bridge, empty":         {"bridge: ''\n", `c.yaml:1:9: bridge: "": ` + device},
		"bridge, slash":         {"bridge: a/b\n", `c.yaml:1:9: bridge: "a/b": ` + device},
		"bridge, colon":         {"bridge: a:b\n", `c.yaml:1:9: bridge: "a:b": ` + device},
		"bridge, space":         {"bridge: a b\n", `c.yaml:1:9: bridge: "a b": ` + device},
		"bridge, tab":           {`bridge: "a\tb"`, `c.yaml:1:9: bridge: "a\tb": ` + device},
		"bridge, Latin-1 space": {"bridge: à\n", `c.yaml:1:9: bridge: "à": ` + device},
		"bridge, pattern":       {"bridge: cni%d\n", `c.yaml:1:9: bridge: "cni%d": ` + device},
		"bridge, dot":           {"bridge: .\n", `c.yaml:1:9: bridge: ".": ` + taken},
		"bridge, dots":          {"bridge: ..\n", `c.yaml:1:9: bridge: "..": ` + taken},
		"bridge, all":           {"bridge: all\n", `c.yaml:1:9: bridge: "all": ` + taken},
		"networks": {"noMasqueradeTo: [10.0.0.1/8, 10.0.0.1, x, '::ffff:10.0.0.0/104']\n",
			`c.yaml:1:18: noMasqueradeTo[0]: "10.0.0.1/8": expected a network without host bits: write 10.0.0.0/8
c.yaml:1:30: noMasqueradeTo[1]: "10.0.0.1": expected a network: write 10.0.0.1/32 for this one address
c.yaml:1:40: noMasqueradeTo[2]: "x": expected a network such as 192.168.0.0/16
c.yaml:1:43: noMasqueradeTo[3]: "::ffff:10.0.0.0/104": expected a network in IPv4 form, not IPv4 in IPv6`},

		"bridge and device are one": {"bridge: br0\nvxlan:\n  device: br0\n",
			`c.yaml:3:11: vxlan.device: "br0": bridge names the same device: they must differ`},
		"bridge is the device's default": {"bridge: overlay0\n",
			`c.yaml:1:9: bridge: "overlay0": vxlan.device names the same device: they must differ`},
		"underlay's family": {"underlayFamily: IPv6\n", `c.yaml:1:17: underlayFamily: "IPv6": expected auto, ipv4 or ipv6`},
		"underlay of the other family": {"underlay: 192.168.77.1\nunderlayFamily: ipv6\n",
			`c.yaml:2:17: underlayFamily: "ipv6": underlay is 192.168.77.1, an address of the other family: give one of IPv6, or leave underlayFamily out`},
		"underlay by an address of the other family": {"underlay: to:fd77::1\nunderlayFamily: ipv4\n",
			`c.yaml:2:17: underlayFamily: "ipv4": underlay is to:fd77::1, an address of the other family: give one of IPv4, or leave underlayFamily out`},
		"underlay is the bridge": {"underlay: cni0\n",
			`c.yaml:1:11: underlay: "cni0": bridge names the same device: they must differ`},
		"no clash with a value that was refused": {"bridge: overlay0\nvxlan: {device: a/b}\n",
			`c.yaml:2:17: vxlan.device: "a/b": ` + device},
		"no clash with a value of another kind": {"bridge: overlay0\nvxlan: {device: [x]}\n",
			`c.yaml:2:17: vxlan.device: expected one value (name), found a list`},
		"all mistakes, in the order of lines": {"vxlan:\n  vni: 0\n  vnii: 1\n  port: 0\nmtu: 9\nbridge: overlay0\ncolor: x\n",
			`c.yaml:2:8: vxlan.vni: "0": expected a whole number from 1 to 16777215
c.yaml:3:3: vxlan: unknown key "vnii": did you mean "vxlan.vni"?
c.yaml:4:9: vxlan.port: "0": expected a whole number from 1 to 65535
c.yaml:5:6: mtu: "9": expected 0 (from the underlay), or 576 to 65535
c.yaml:6:9: bridge: "overlay0": vxlan.device names the same device: they must differ
c.yaml:7:1: unknown key "color": the keys here are ` + keys},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := loadText(t, tt.text)
			if diff := cmp.Diff(tt.want, fmt.Sprint(err)); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLoadRefusesFlags(t *testing.T) {
	t.Chdir(t.TempDir())
	tests := map[string]struct {
		file string
		args []string
		want string
	}{
		"bad value": {"", []string{"--vxlan-vni", "0"}, `--vxlan-vni: "0": expected a whole number from 1 to 16777215`},
		"empty":     {"", []string{"--mtu="}, `--mtu: "": expected 0 (from the underlay), or 576 to 65535`},
		"items of a list": {"", []string{"--no-masquerade-to", "x,10.0.0.0/8,"},
			"--no-masquerade-to: \"x\": expected a network such as 192.168.0.0/16\n" +
				`--no-masquerade-to: "": expected a network such as 192.168.0.0/16`},
		"clash": {"bridge: br0\n", []string{"--vxlan-device", "br0"},
			`--vxlan-device: "br0": bridge names the same device: they must differ`},
		"clash of a flag that replaces a bad value": {"bridge: a/b\n", []string{"--bridge", "overlay0"},
			`c.yaml:1:9: bridge: "a/b": expected a device name: 1 to 15 characters without '/', ':', '%' and white space
--bridge: "overlay0": vxlan.device names the same device: they must differ`},
		"clash with the file": {"vxlan: {device: br0}\n", []string{"--bridge", "br0"},
			`c.yaml:1:17: vxlan.device: "br0": bridge names the same device: they must differ`},
		"file and flags together, a bad value of the file though a flag wins": {
			"mtu: 1\n", []string{"--mtu", "1400", "--log-level", "loud", "--vxlan-port", "x"},
			`c.yaml:1:6: mtu: "1": expected 0 (from the underlay), or 576 to 65535
--vxlan-port: "x": expected a whole number from 1 to 65535
--log-level: "loud": expected debug, info, warn or error`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := loadText(t, tt.file, tt.args...)
			if diff := cmp.Diff(tt.want, fmt.Sprint(err)); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLoadRefusesAMissingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.yaml")
	_, err := load(t, path)
	want := "read the configuration (--config): open " + path + ": no such file or directory"
	if fmt.Sprint(err) != want || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestHostNameIsChecked(t *testing.T) {
	sentinel := errors.New("no host name")
	for name, tt := range map[string]struct {
		hostname func() (string, error)
		want     string
	}{
		"no name": {func() (string, error) { return "", sentinel },
			"nodeName: take it from the host name: no host name: or give --node-name"},
		"bad name": {func() (string, error) { return "a b", nil },
			`nodeName: take it from the host name: "a b" is not a node name: write 1 to 253 letters, digits, '-', '_' and '.', beginning with a letter or digit: or give --node-name`},
	} {
		t.Run(name, func(t *testing.T) {
			l := AddFlags(pflag.NewFlagSet("overlayd", pflag.ContinueOnError))
			l.hostname = tt.hostname
			if _, err := l.Load(); fmt.Sprint(err) != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

// A default is one more value that goes through the setting's own function.
func TestSettingsAreComplete(t *testing.T) {
	var keys []string
	for _, s := range settings() {
		keys = append(keys, s.key)
		if s.usage == "" || s.kind == "" || s.add == nil || (s.fallback == "") == (s.computed == "") {
			t.Errorf("%s: incomplete or with two defaults: %+v", s.key, s)
		}
		if s.fallback == "" {
			continue
		}
		if err := s.add(&Config{}, s.fallback); err != nil {
			t.Errorf("%s: the default is refused: %v", s.key, err)
		}
	}
	slices.Sort(keys)
	if len(slices.Compact(slices.Clone(keys))) != len(keys) {
		t.Errorf("a key twice: %v", keys)
	}
}

func TestHelpShowsDefaults(t *testing.T) {
	flags := pflag.NewFlagSet("overlayd", pflag.ContinueOnError)
	AddFlags(flags)
	help := flags.FlagUsages()
	for _, want := range []string{
		"--node-name name", "(default the host name)", "--vxlan-port number", "(default 4789)",
		"--masquerade  ", "(default true)", "--no-masquerade-to networks", "(default none)", "--config file",
	} {
		if !strings.Contains(help, want) {
			t.Errorf("the help does not say %q:\n%s", want, help)
		}
	}
}

// encode writes a configuration as a file.
func encode(c Config) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "nodeName: %q\nrunDir: %q\nunderlay: %q\nunderlayFamily: %s\nmtu: %d\nbridge: %q\nmasquerade: %t\nresync: %s\n",
		c.NodeName, c.RunDir, c.Underlay, familyText(c.UnderlayFamily), c.MTU, c.Bridge, c.Masquerade, c.Resync)
	b.WriteString("noMasqueradeTo: [")
	for _, p := range c.NoMasqueradeTo {
		fmt.Fprintf(&b, "%q, ", p)
	}
	e := c.Registry.Etcd
	fmt.Fprintf(&b, "]\nhealth: {address: %q}\ncni: {confDir: %q, confName: %q}\n", c.Health, c.CNI.ConfDir, c.CNI.ConfName)
	fmt.Fprintf(&b, "registry: {type: %q, file: %q%s, etcd: {endpoints: [%s], prefix: %q, leaseTime: %s%s}}\n",
		c.Registry.Type, c.Registry.File, optional("kubeconfig", c.Registry.Kubeconfig), list(e.Endpoints), e.Prefix, e.LeaseTime,
		optional("ca", e.CA)+optional("cert", e.Cert)+optional("key", e.Key)+optional("username", e.Username)+optional("hostId", e.HostID)+optional("passwordFile", e.PasswordFile))
	v := c.VXLAN
	fmt.Fprintf(&b, "vxlan: {device: %q, vni: %d, port: %d, sourcePorts: %s, udpChecksum: %t, acceptZeroChecksum: %t, ttl: %s, tos: %s, df: %s, checkSource: %t, notrack: %t, txChecksumOffload: \"%s\"}\n",
		v.Device, v.VNI, v.Port, v.SourcePorts, !v.ZeroChecksum, v.AcceptZeroChecksum, v.TTL, v.TOS, v.DF, !v.AnySource, !v.Tracked, v.TxChecksum)
	fmt.Fprintf(&b, "iptablesForward: %t\nantiSpoofing: %t\ndirectRouting: %t\n", c.IPTablesForward, c.AntiSpoofing, c.DirectRouting)
	fmt.Fprintf(&b, "log: {level: %s, format: %q}\n", strings.ToLower(c.Log.Level.String()), c.Log.Format)
	return b.Bytes()
}

// optional is a member of a mapping that can't be empty.
func optional(key, value string) string {
	if value == "" {
		return ""
	}
	return fmt.Sprintf(", %s: %q", key, value)
}

func parse(data []byte) (Config, error) {
	b := newBuilder()
	b.document("c.yaml", data, settings())
	b.cross()
	b.resolveName(func() (string, error) { return "this-host", nil })
	return b.result()
}

// invalid says which value of an accepted configuration breaks what its
// consumers rely on.
func invalid(c Config) string {
	switch {
	case c.NodeName == "", !filepath.IsAbs(c.RunDir), c.Registry.File == "":
		return "name or path"
	case c.VXLAN.VNI < 1 || c.VXLAN.VNI > 1<<24-1 || c.VXLAN.Port == 0:
		return "VNI or port"
	case c.MTU != 0 && (c.MTU < 576 || c.MTU > 65535):
		return "MTU"
	case len(c.Bridge) < 1 || len(c.Bridge) > 15 || c.Bridge == c.VXLAN.Device:
		return "bridge"
	case strings.ContainsAny(c.Bridge+c.VXLAN.Device+c.Underlay.Interface, "/: \t\n\v\f\r\x00%"):
		return "device name"
	case c.Resync < time.Second:
		return "resync"
	case slices.ContainsFunc(c.NoMasqueradeTo, func(p netip.Prefix) bool { return !p.IsValid() || p != p.Masked() }):
		return "networks"
	}
	return ""
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		full, "", "mtu:", "vxlan: {vni: 0}", "noMasqueradeTo: [x, {}]", "? [a]\n: b", "a: &a [*a]", "<<: {mtu: 1}",
		"bridge: \"\\0\"", "bridge: é", "underlay: to:::1%x", "resync: 9999999h", "---\n---", "\"", "mtu: !!int 1400", "runDir: /\u2028",
		"registry: {file: \"a\\tb\"}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		first, err := parse(data)
		if err != nil {
			return
		}
		if what := invalid(first); what != "" {
			t.Errorf("accepted a bad %s: %+v", what, first)
		}
		again, err := parse(encode(first))
		if err != nil {
			t.Fatalf("refused what was accepted before: %v\n%s", err, encode(first))
		}
		if diff := cmp.Diff(first, again, equalConfigs()); diff != "" {
			t.Errorf("written and read again (-first +again):\n%s", diff)
		}
	})
}

// list is the inside of a sequence.
func list(items []string) string {
	var quoted []string
	for _, item := range items {
		quoted = append(quoted, fmt.Sprintf("%q", item))
	}
	return strings.Join(quoted, ", ")
}

// familyText is how the setting underlayFamily is written.
func familyText(f family.Family) string {
	if f == 0 {
		return auto
	}
	return f.Proc()
}
