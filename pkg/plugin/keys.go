package plugin

import (
	"fmt"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/internal/typo"
)

// decodeConf reads the configuration and refuses keys that nobody knows: a key with
// a typing error would have no effect, and the pod would get another network than
// its operator asked for.
func decodeConf(data []byte, c *conf) error {
	if err := decode("", data, c); err != nil {
		return err
	}
	return checkKeys(data)
}

// keySet is what an object of the configuration may have.
type keySet struct {
	path  string // of the object, for messages
	known []string
	// advice says what to write instead of a key of another plugin, or "".
	advice func(key string) string
	// open lets keys through that belong to somebody else, see isForeign.
	open bool
}

// The key sets are functions, because tables would be filled at every start of the
// plugin.

func topKeys() keySet {
	return keySet{
		known: []string{
			"cniVersion", "name", "type", "runDir", "bridge", "mtu", "waitSeconds", "antiSpoofing", "ipam", "dns", "capabilities",
			// What libcni and runtimes add, and the keys of a whole list.
			"prevResult", "runtimeConfig", "args", "cniVersions", "disableCheck", "disableGC", "loadOnlyInlinedPlugins",
			"deviceID", "pciBusID", // Multus
		},
		advice: topAdvice, open: true,
	}
}

func ipamKeys() keySet {
	return keySet{path: "ipam", known: []string{"type", "ranges", "routes", "subnet"}, advice: ipamAdvice}
}

func rangeKeys() keySet {
	return keySet{path: "ipam.ranges", known: []string{"subnet", "rangeStart", "rangeEnd", "gateway", "exclude"}}
}

func routeKeys() keySet {
	return keySet{path: "ipam.routes", known: []string{"dst", "gw", "mtu", "advmss", "priority", "table", "scope"}}
}

const rangeAdvice = `write it inside a range: "ranges": [[{"subnet": "10.244.1.0/24", ...}]]`

// topAdvice is about keys of the plugins that people come from: bridge, flannel,
// macvlan, portmap, bandwidth, tuning and firewall.
func topAdvice(key string) string {
	switch key {
	case "isGateway", "isDefaultGateway", "forceAddress":
		return "the bridge is always the pods' gateway, leave it out"
	case "ipMasq":
		return "overlayd masquerades (its setting masquerade), and without overlayd nothing does: leave it out"
	case "ipMasqBackend":
		return "overlayd masquerades with nftables, leave it out"
	case "hairpinMode":
		return "pods reach themselves through Services and host ports anyway, leave it out"
	case "promiscMode", "macspoofchk", "portIsolation", "vlan", "vlanTrunk", "preserveDefaultVlan":
		return "pods' ports are isolated and routed anyway, leave it out"
	case "delegate":
		return "there is nothing to delegate to: write bridge, mtu and ipam here"
	case "subnetFile":
		return "overlayd publishes the node's subnets in runDir, leave it out"
	case "dataDir":
		return "addresses are reserved in runDir, leave it out"
	case "master":
		return "which interface carries the tunnel is overlayd's setting underlay, leave it out"
	case "subnet", "ranges", "routes":
		return "write it inside of ipam"
	case "snat", "masqAll", "markMasqBit", "sysctl", "backend", "ingressPolicy":
		return "no such setting here: chain the plugin that has it after this one"
	case "ingressRate", "ingressBurst", "egressRate", "egressBurst":
		return `a pod's limits come from the runtime: list the capability "bandwidth" instead`
	case "mac":
		return `a pod's MAC address comes from the runtime: list the capability "mac" instead`
	}
	return ""
}

// ipamAdvice is about keys of the IPAM plugins host-local and static.
func ipamAdvice(key string) string {
	switch key {
	case "rangeStart", "rangeEnd", "gateway", "exclude":
		return rangeAdvice
	case "dataDir":
		return "addresses are reserved in runDir, leave it out"
	case "resolvConf", "dns":
		return "write dns beside ipam instead"
	case "addresses":
		return `a pod's fixed addresses come from the runtime: list the capability "ips" instead`
	}
	return ""
}

// checkKeys refuses the first unknown key of a configuration that can be decoded.
// It walks over the text, because a second decoding would cost every ADD 0.03 ms.
func checkKeys(data []byte) error {
	return topKeys().check(data, func(key string, value []byte) error {
		// Capabilities that nobody here knows are for the runtime, which offers
		// its own (io.kubernetes.cri.pod-annotations), and do no harm.
		if strings.EqualFold(key, "ipam") {
			return ipamKeys().check(value, checkIPAM)
		}
		return nil
	})
}

func checkIPAM(key string, value []byte) error {
	check := func(keys keySet) func([]byte) error {
		return func(item []byte) error { return keys.check(item, nil) }
	}
	switch {
	case strings.EqualFold(key, "ranges"):
		return eachItem(value, func(set []byte) error { return eachItem(set, check(rangeKeys())) })
	case strings.EqualFold(key, "routes"):
		return eachItem(value, check(routeKeys()))
	}
	return nil
}

// check refuses the first unknown key of an object, and calls inside for each value
// of a known key.
func (s keySet) check(object []byte, inside func(key string, value []byte) error) error {
	return eachKey(object, func(key string, value []byte) error {
		switch {
		case string(value) == "null", s.open && isForeign(key): // null asks for nothing
			return nil
		case !s.knows(key):
			return invalid("unknown key %q: %s", strings.TrimPrefix(s.path+"."+key, "."), s.suggest(key))
		case inside != nil:
			return inside(key, value)
		}
		return nil
	})
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
	if s.advice != nil {
		if advice := s.advice(key); advice != "" {
			return advice
		}
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
