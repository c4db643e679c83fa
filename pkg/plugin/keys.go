package plugin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/internal/typo"
)

// decodeConf reads the configuration and refuses keys that nobody knows: a key with
// a typing error would have no effect, and the pod would get another network than
// its operator asked for. The decoder only reports that there is such a key. Finding
// out which key, and whether a runtime put it there, takes a second pass, which a
// configuration like those in conf/ never needs.
func decodeConf(data []byte, c *conf) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(c); err == nil && len(bytes.TrimSpace(data[d.InputOffset():])) == 0 {
		return nil
	}
	*c = conf{}
	if err := decode("", data, c); err != nil {
		return err
	}
	return checkKeys(data)
}

// keySet is what an object of the configuration may have.
type keySet struct {
	path  string // of the object, for messages
	known []string
	// advice says what to write instead of keys of other plugins.
	advice map[string]string
	// open lets keys through that belong to somebody else, see isForeign.
	open bool
}

var (
	topKeys = keySet{
		known: []string{
			"cniVersion", "name", "type", "runDir", "bridge", "mtu", "waitSeconds", "ipam", "dns", "capabilities",
			// What libcni and runtimes add, and the keys of a whole list.
			"prevResult", "runtimeConfig", "args", "cniVersions", "disableCheck", "disableGC", "loadOnlyInlinedPlugins",
			"deviceID", "pciBusID", // Multus
		},
		advice: topAdvice, open: true,
	}
	capabilityKeys = keySet{path: "capabilities", known: []string{"portMappings", "bandwidth", "ips", "mac"}}
	ipamKeys       = keySet{path: "ipam", known: []string{"type", "ranges", "routes", "subnet"}, advice: ipamAdvice}
	rangeKeys      = keySet{path: "ipam.ranges", known: []string{"subnet", "rangeStart", "rangeEnd", "gateway", "exclude"}}
	routeKeys      = keySet{path: "ipam.routes", known: []string{"dst", "gw", "mtu", "advmss", "priority", "table", "scope"}}
)

const (
	gatewayAdvice  = "the bridge is always the pods' gateway, leave it out"
	portAdvice     = "pods' ports are isolated and routed anyway, leave it out"
	chainAdvice    = "no such setting here: chain the plugin that has it after this one"
	underlayAdvice = "which interface carries the tunnel is overlayd's setting underlay, leave it out"
	limitAdvice    = `a pod's limits come from the runtime: list the capability "bandwidth" instead`
	rangeAdvice    = `write it inside a range: "ranges": [[{"subnet": "10.244.1.0/24", ...}]]`
)

// topAdvice is about keys of the plugins that people come from: bridge, flannel,
// macvlan, portmap, bandwidth, tuning and firewall.
var topAdvice = map[string]string{
	"isGateway": gatewayAdvice, "isDefaultGateway": gatewayAdvice, "forceAddress": gatewayAdvice,
	"ipMasq":        "overlayd masquerades (its setting masquerade), and without overlayd nothing does: leave it out",
	"ipMasqBackend": "overlayd masquerades with nftables, leave it out",
	"hairpinMode":   "pods reach themselves through Services and host ports anyway, leave it out",
	"promiscMode":   portAdvice, "macspoofchk": portAdvice, "portIsolation": portAdvice,
	"vlan": portAdvice, "vlanTrunk": portAdvice, "preserveDefaultVlan": portAdvice,
	"delegate":   "there is nothing to delegate to: write bridge, mtu and ipam here",
	"subnetFile": "overlayd publishes the node's subnets in runDir, leave it out",
	"dataDir":    "addresses are reserved in runDir, leave it out",
	"master":     underlayAdvice, "subnet": rangeAdvice, "ranges": "write it inside of ipam", "routes": "write it inside of ipam",
	"snat": chainAdvice, "masqAll": chainAdvice, "markMasqBit": chainAdvice, "sysctl": chainAdvice, "backend": chainAdvice,
	"ingressPolicy": chainAdvice,
	"ingressRate":   limitAdvice, "ingressBurst": limitAdvice, "egressRate": limitAdvice, "egressBurst": limitAdvice,
	"mac": `a pod's MAC address comes from the runtime: list the capability "mac" instead`,
}

// ipamAdvice is about keys of the IPAM plugins host-local and static.
var ipamAdvice = map[string]string{
	"rangeStart": rangeAdvice, "rangeEnd": rangeAdvice, "gateway": rangeAdvice, "exclude": rangeAdvice,
	"dataDir":    "addresses are reserved in runDir, leave it out",
	"resolvConf": "write dns beside ipam instead",
	"dns":        "write it beside ipam instead",
	"addresses":  `a pod's fixed addresses come from the runtime: list the capability "ips" instead`,
}

// checkKeys refuses the first unknown key of a configuration that can be decoded.
func checkKeys(data []byte) error {
	var c struct {
		Capabilities json.RawMessage `json:"capabilities"`
		IPAM         json.RawMessage `json:"ipam"`
	}
	var ipam struct {
		Ranges [][]json.RawMessage `json:"ranges"`
		Routes []json.RawMessage   `json:"routes"`
	}
	// Errors are impossible: conf, which has the same form, was decoded.
	_ = json.Unmarshal(data, &c)
	_ = json.Unmarshal(c.IPAM, &ipam)
	type object struct {
		keySet
		data json.RawMessage
	}
	objects := []object{{topKeys, data}, {capabilityKeys, c.Capabilities}, {ipamKeys, c.IPAM}}
	for _, r := range slices.Concat(ipam.Ranges...) {
		objects = append(objects, object{rangeKeys, r})
	}
	for _, r := range ipam.Routes {
		objects = append(objects, object{routeKeys, r})
	}
	for _, o := range objects {
		if err := o.check(o.data); err != nil {
			return err
		}
	}
	return nil
}

func (s keySet) check(object json.RawMessage) error {
	var values map[string]json.RawMessage
	_ = json.Unmarshal(object, &values) // see checkKeys
	for _, key := range slices.Sorted(maps.Keys(values)) {
		// null and an absent capability ask for nothing.
		if value := string(values[key]); value == "null" || s.path == capabilityKeys.path && value == "false" {
			continue
		}
		if s.knows(key) || s.open && isForeign(key) {
			continue
		}
		return invalid("unknown key %q: %s", strings.TrimPrefix(s.path+"."+key, "."), s.suggest(key))
	}
	return nil
}

// knows ignores case, as the decoder does.
func (s keySet) knows(key string) bool {
	return slices.ContainsFunc(s.known, func(k string) bool { return strings.EqualFold(k, key) })
}

// isForeign reports whether a key names the program that reads it, such as
// cni.dev/valid-attachments, or is a comment.
func isForeign(key string) bool {
	return strings.ContainsAny(key, "/.") || strings.HasPrefix(key, "_") || strings.HasPrefix(key, "#")
}

func (s keySet) suggest(key string) string {
	if advice, ok := s.advice[key]; ok {
		return advice
	}
	best, fewest := "", typo.Limit(key)+1
	for _, k := range s.known {
		if d := typo.Count(key, k); d < fewest {
			best, fewest = k, d
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	return "leave it out, the keys here are " + strings.Join(s.known, ", ")
}
