package plugin

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/network"
	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/subnet"
	"github.com/overlay-cni/overlay-cni/pkg/veth"
)

// Type is the plugin's name in CNI configurations.
const Type = "overlay-cni"

const (
	defaultBridge = "cni0"
	defaultMTU    = 1500 // that of Ethernet, for hosts without a daemon
	// minIPv6MTU is the least MTU of an IPv6 link (RFC 8200, 5). With less the kernel
	// disables IPv6 on an interface.
	minIPv6MTU  = 1280
	defaultWait = 10 * time.Second
	// maxWait is below the two minutes after which a kubelet gives an ADD up.
	maxWait = time.Minute
)

// conf is the CNI configuration. Keys that are not here go through checkKeys.
type conf struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	Type       string `json:"type"`
	RunDir     string `json:"runDir"`
	Bridge     string `json:"bridge"`
	MTU        int    `json:"mtu"`
	Wait       *int   `json:"waitSeconds"`
	// AntiSpoofing is true unless the configuration says otherwise.
	AntiSpoofing *bool    `json:"antiSpoofing"`
	IPAM         ipamConf `json:"ipam"`
	// The keys below are decoded by the commands that need them.
	DNS        json.RawMessage `json:"dns"`
	PrevResult json.RawMessage `json:"prevResult"`
	Runtime    json.RawMessage `json:"runtimeConfig"`
	Args       json.RawMessage `json:"args"`
	Valid      json.RawMessage `json:"cni.dev/valid-attachments"`
}

type ipamConf struct {
	Type   string        `json:"type"`
	Ranges [][]rangeConf `json:"ranges"`
	Routes []routeConf   `json:"routes"`
	// Subnet is host-local's older form of Ranges. The plugin refuses it, with an
	// error that says what to write instead.
	Subnet string `json:"subnet"`
}

type rangeConf struct {
	Subnet     string   `json:"subnet"`
	RangeStart string   `json:"rangeStart"`
	RangeEnd   string   `json:"rangeEnd"`
	Gateway    string   `json:"gateway"`
	Exclude    []string `json:"exclude"`
}

type routeConf struct {
	Dst string `json:"dst"`
	GW  string `json:"gw"`
	// Keys of the specification that this plugin refuses, because it can't set them.
	MTU      json.RawMessage `json:"mtu"`
	AdvMSS   json.RawMessage `json:"advmss"`
	Priority json.RawMessage `json:"priority"`
	Table    json.RawMessage `json:"table"`
	Scope    json.RawMessage `json:"scope"`
}

// parseConf reads the configuration. Where it returns an error, the conf holds
// as much as could be read: it is never nil.
func parseConf(data []byte) (*conf, error) {
	c := &conf{}
	if err := decodeConf(data, c); err != nil {
		return c, err
	}
	return c, c.complete()
}

// parseForRemoval is parseConf for DEL and GC, which have to work with a
// configuration that ADD refuses: a value of the wrong type counts as absent.
func parseForRemoval(data []byte) (*conf, error) {
	c := &conf{}
	var wrong *json.UnmarshalTypeError
	if err := json.Unmarshal(data, c); err != nil && !errors.As(err, &wrong) {
		return c, decode("", data, &conf{})
	}
	return c, c.complete()
}

// complete fills in and checks what every command needs.
func (c *conf) complete() error {
	if c.RunDir == "" {
		c.RunDir = nodestate.DefaultDir
	}
	if !filepath.IsAbs(c.RunDir) {
		return invalid("runDir %q is not an absolute path, such as %s", c.RunDir, nodestate.DefaultDir)
	}
	return nil
}

// guards reports whether the network's pods are kept from sending with the addresses
// of others.
func (c *conf) guards() bool { return c.AntiSpoofing == nil || *c.AntiSpoofing }

// stateDir is the directory of the network's state.
func (c *conf) stateDir() string { return network.Default.StateDir(c.RunDir) }

// store holds the network's attachments.
func (c *conf) store() *attachment.Store { return attachment.Open(c.RunDir, network.Default) }

// decodePart decodes a part of the configuration, which may be absent. Key is its
// name.
func decodePart(key string, data json.RawMessage, to any) error {
	if len(data) == 0 {
		return nil
	}
	return decode(key, data, to)
}

func decode(key string, data []byte, to any) error {
	err := json.Unmarshal(data, to)
	if err == nil {
		return nil
	}
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		field := strings.Trim(key+"."+wrong.Field, ".")
		err = fmt.Errorf("key %q: expected %s, found %s", field, jsonKind(wrong), wrong.Value)
	}
	return types.NewError(types.ErrDecodingFailure, "the CNI configuration can't be read: "+err.Error(), "")
}

// jsonKind returns what the wrong value should have been.
func jsonKind(e *json.UnmarshalTypeError) string {
	switch kind := e.Type.Kind().String(); {
	case strings.HasPrefix(kind, "int"):
		return "a number"
	case kind == "slice":
		return "a list"
	case kind == "struct":
		return "an object"
	default:
		return "a " + kind
	}
}

func invalid(format string, args ...any) error {
	return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf(format, args...), "")
}

// settings are what pods get, from the CNI configuration or from the daemon.
type settings struct {
	bridge bridge.Spec
	// unguarded says that the daemon is told to guard no pod.
	unguarded bool
	sets      []ipam.RangeSet
	routes    []veth.Route
}

// gateways returns one gateway of each range set: the pod gets an address of the
// family of each.
func (n settings) gateways() []netip.Addr {
	var gateways []netip.Addr
	for _, set := range n.sets {
		gateways = append(gateways, set[0].Gateway)
	}
	return gateways
}

// contains tells whether pods get addresses of the subnet that an address is in.
func (n settings) contains(a netip.Addr) bool {
	return slices.ContainsFunc(n.bridge.Gateways, func(g netip.Prefix) bool { return g.Contains(a) })
}

// settings resolves the configuration. If the settings come from the daemon,
// settings waits up to limit for the daemon to publish them.
func (c *conf) settings(limit time.Duration) (settings, error) {
	if err := c.check(); err != nil {
		return settings{}, err
	}
	if len(c.IPAM.Ranges) > 0 {
		return c.fromRanges()
	}
	return c.fromDaemon(limit)
}

func (c *conf) check() error {
	switch {
	case c.Type != Type:
		return invalid("unknown type %q: this plugin is %q", c.Type, Type)
	case c.IPAM.Type != "" && c.IPAM.Type != Type:
		return invalid("unknown ipam.type %q: this plugin gives the addresses itself, leave it out or write %q", c.IPAM.Type, Type)
	case c.IPAM.Subnet != "":
		return invalid("ipam.subnet is not supported: write \"ranges\": [[{\"subnet\": %q}]]", c.IPAM.Subnet)
	case c.MTU != 0 && (c.MTU < 576 || c.MTU > 65535):
		return invalid("mtu %d is out of range: use 576 to 65535, or 0 for the default", c.MTU)
	case c.Wait != nil && (*c.Wait < 0 || *c.Wait > int(maxWait.Seconds())):
		return invalid("waitSeconds %d is out of range: use 0 to %d", *c.Wait, int(maxWait.Seconds()))
	case c.Bridge != "" && !isLinkName(c.Bridge):
		return invalid("bridge %q can't be an interface name: %s", c.Bridge, linkNameRule)
	}
	return nil
}

// linkNameRule is what isLinkName asks for, in words.
const linkNameRule = "use 1 to 15 characters without spaces, '/' and ':'"

// isLinkName is the kernel's rule for interface names (dev_valid_name).
func isLinkName(name string) bool {
	return name != "" && len(name) <= 15 && name != "." && name != ".." &&
		!strings.ContainsAny(name, "/:") && !strings.ContainsFunc(name, unicode.IsSpace)
}

// limit is how long an ADD may wait for the daemon.
func (c *conf) limit() time.Duration {
	if c.Wait == nil {
		return defaultWait
	}
	return time.Duration(*c.Wait) * time.Second
}

// bridgeName returns the bridge's name, also of a configuration that ADD refuses.
func (c *conf) bridgeName() string {
	if c.Bridge != "" {
		return c.Bridge
	}
	if len(c.IPAM.Ranges) == 0 {
		if state, err := nodestate.Read(c.stateDir()); err == nil {
			return state.Bridge
		}
	}
	return defaultBridge
}

func (c *conf) fromRanges() (settings, error) {
	sets, err := c.IPAM.sets()
	if err != nil {
		return settings{}, err
	}
	n := settings{sets: sets, bridge: bridge.Spec{Name: c.bridgeName(), MTU: c.MTU}}
	state, err := nodestate.Last(c.stateDir())
	n.unguarded = err == nil && state.Unguarded // it is for the pods of all bridges
	withDaemon := err == nil && state.Bridge == n.bridge.Name
	if withDaemon {
		if n.bridge.MTU, err = c.mtuBelow(state); err != nil {
			return settings{}, err
		}
	}
	if n.bridge.MTU == 0 {
		n.bridge.MTU = defaultMTU
	}
	if n, err = c.finish(n); err == nil && withDaemon {
		err = c.fitDaemon(n.bridge, state)
	}
	return n, err
}

// fitDaemon refuses a network with other gateways than the daemon's on the daemon's
// bridge: the daemon keeps the bridge's addresses exactly, so it would delete them,
// and cut this network's pods off.
func (c *conf) fitDaemon(b bridge.Spec, state nodestate.State) error {
	for _, g := range b.Gateways {
		if !slices.ContainsFunc(state.Subnets, func(p netip.Prefix) bool { return p == g.Masked() && subnet.Gateway(p) == g.Addr() }) {
			return invalid("network %q has the gateway %s on bridge %s, which belongs to overlayd and has the gateways of %v alone: set bridge to another name for this network, or leave ipam.ranges out to have pods in overlayd's",
				c.Name, g, b.Name, state.Subnets)
		}
	}
	return nil
}

func (c *conf) fromDaemon(limit time.Duration) (settings, error) {
	state, err := nodestate.Wait(c.stateDir(), limit)
	if nodestate.Passes(err) {
		return settings{}, types.NewError(types.ErrTryAgainLater, err.Error(),
			"is overlayd running on this node, with the same run directory? Its log says what it waits for")
	}
	if err != nil {
		return settings{}, err
	}
	if c.Bridge != "" && c.Bridge != state.Bridge {
		return settings{}, invalid("bridge is %q here and %q for overlayd: leave it out here", c.Bridge, state.Bridge)
	}
	n := settings{bridge: bridge.Spec{Name: state.Bridge}, unguarded: state.Unguarded}
	if n.bridge.MTU, err = c.mtuBelow(state); err != nil {
		return settings{}, err
	}
	if n.sets, err = ipam.Complete(ipam.FromSubnets(state.Subnets)); err != nil {
		return settings{}, fmt.Errorf("subnets that overlayd published: %w", err)
	}
	return c.finish(n)
}

// mtuBelow returns the MTU on the daemon's bridge: the configured one, else the
// daemon's.
func (c *conf) mtuBelow(state nodestate.State) (int, error) {
	if c.MTU > state.MTU {
		return 0, invalid("mtu %d is more than the %d that fit through the tunnel: leave it out", c.MTU, state.MTU)
	}
	return cmp.Or(c.MTU, state.MTU), nil
}

// finish adds what follows from the range sets: the bridge's addresses, and the
// routes via these addresses.
func (c *conf) finish(n settings) (settings, error) {
	families := map[family.Family]netip.Addr{}
	for _, set := range n.sets {
		f := family.Of(set[0].Gateway)
		if families[f].IsValid() {
			return n, invalid("ipam.ranges has two range sets of %s, the second with %s: a pod gets one address of each family", f, set)
		}
		families[f] = set[0].Gateway
		if f == family.IPv6 && n.bridge.MTU < minIPv6MTU {
			return n, invalid("mtu %d is less than the %d that IPv6 needs, and pods get IPv6 addresses of %s: set mtu to %[2]d or more, or leave it out", n.bridge.MTU, minIPv6MTU, set)
		}
		for _, r := range set {
			n.bridge.Gateways = append(n.bridge.Gateways, netip.PrefixFrom(r.Gateway, r.Subnet.Bits()))
		}
	}
	var err error
	n.routes, err = c.IPAM.routes(families)
	return n, err
}
