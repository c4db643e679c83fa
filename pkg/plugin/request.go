package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/overlay-cni/overlay-cni/pkg/hostport"
	"github.com/overlay-cni/overlay-cni/pkg/shaper"
)

// request is what the runtime asks for one pod, beyond the configuration.
type request struct {
	pod       string // namespace/name, or empty
	addresses []netip.Addr
	mac       net.HardwareAddr
	limits    shaper.Limits
	ports     []hostport.Mapping
	rawPorts  json.RawMessage // what ports was read from
}

// runtimeConfig holds the capability arguments (CNI conventions,
// "Dynamic Plugin specific fields").
type runtimeConfig struct {
	IPs []string `json:"ips"`
	MAC string   `json:"mac"`
	// PortMappings are read by package hostport.
	PortMappings json.RawMessage `json:"portMappings"`
	// Bandwidth is in bits, and bits a second.
	Bandwidth struct {
		IngressRate  uint64 `json:"ingressRate"`
		IngressBurst uint64 `json:"ingressBurst"`
		EgressRate   uint64 `json:"egressRate"`
		EgressBurst  uint64 `json:"egressBurst"`
	} `json:"bandwidth"`
}

// limits reads the bandwidth capability, which the reference plugin defines. A rate
// needs a burst, and the kernel counts a burst in 32 bits.
func (c runtimeConfig) limits() (shaper.Limits, error) {
	b := c.Bandwidth
	l := shaper.Limits{
		Ingress: shaper.Rate{Rate: b.IngressRate, Burst: b.IngressBurst},
		Egress:  shaper.Rate{Rate: b.EgressRate, Burst: b.EgressBurst},
	}
	for _, r := range []struct {
		name string
		rate shaper.Rate
	}{{"ingress", l.Ingress}, {"egress", l.Egress}} {
		switch {
		case (r.rate.Rate == 0) != (r.rate.Burst == 0):
			return l, invalid("bandwidth: %sRate is %d and %sBurst is %d: give both, in bits, or none", r.name, r.rate.Rate, r.name, r.rate.Burst)
		case r.rate.Rate > 0 && r.rate.Rate < 8:
			return l, invalid("bandwidth: %sRate is %d bits a second: the least is 8", r.name, r.rate.Rate)
		case r.rate.Burst/8 > math.MaxUint32:
			return l, invalid("bandwidth: %sBurst is %d bits: the most is %d", r.name, r.rate.Burst, uint64(math.MaxUint32)*8)
		}
	}
	return l, nil
}

// argsConf is the older way to pass arguments, in the configuration.
type argsConf struct {
	CNI struct {
		IPs []string `json:"ips"`
	} `json:"cni"`
}

// request reads CNI_ARGS and the capability arguments. The capability arguments win:
// they are the newer way to say the same.
func (c *conf) request(cniArgs string) (request, error) {
	pairs, err := parseArgs(cniArgs)
	if err != nil {
		return request{}, err
	}
	var (
		r       request
		runtime runtimeConfig
		args    argsConf
	)
	if err := errors.Join(decodePart("runtimeConfig", c.Runtime, &runtime), decodePart("args", c.Args, &args)); err != nil {
		return r, err
	}
	if r.limits, err = runtime.limits(); err != nil {
		return r, err
	}
	if r.ports, err = hostport.Parse(runtime.PortMappings); err != nil {
		return r, invalid("%s", err)
	}
	if len(r.ports) > 0 {
		r.rawPorts = runtime.PortMappings
	}
	if name := pairs["K8S_POD_NAME"]; name != "" {
		r.pod = strings.TrimPrefix(pairs["K8S_POD_NAMESPACE"]+"/"+name, "/")
	}
	texts := append(runtime.IPs, args.CNI.IPs...)
	if ip := pairs["IP"]; ip != "" && len(texts) == 0 {
		texts = strings.Split(ip, ",")
	}
	for _, text := range texts {
		addr, err := parseFixed(text)
		if err != nil {
			return r, err
		}
		r.addresses = append(r.addresses, addr)
	}
	mac := runtime.MAC
	if mac == "" {
		mac = pairs["MAC"]
	}
	if mac != "" {
		r.mac, err = parseMAC(mac)
	}
	return r, err
}

// parseArgs splits CNI_ARGS. Unknown keys are ignored, with or without
// IgnoreUnknown.
func parseArgs(cniArgs string) (map[string]string, error) {
	pairs := map[string]string{}
	for pair := range strings.SplitSeq(cniArgs, ";") {
		key, value, ok := strings.Cut(pair, "=")
		if pair != "" && !ok {
			return nil, types.NewError(types.ErrInvalidEnvironmentVariables,
				fmt.Sprintf("CNI_ARGS: %q is not KEY=VALUE", pair), "arguments are separated by ';'")
		}
		pairs[key] = value
	}
	return pairs, nil
}

// parseFixed reads an address that was asked for. A prefix length is ignored: pods
// have their address as /32 or /128.
func parseFixed(text string) (netip.Addr, error) {
	text = strings.TrimSpace(text)
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Addr().Unmap(), nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return a, types.NewError(types.ErrInvalidNetworkConfig,
			fmt.Sprintf("the address asked for, %q, is not an IP address such as 10.244.1.7", text), "it is in CNI_ARGS as IP, or in runtimeConfig.ips")
	}
	return a.Unmap(), nil
}

func parseMAC(text string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(text)
	switch {
	case err != nil || len(mac) != 6:
		return nil, invalid("the MAC address asked for, %q, is not one such as 02:00:00:00:00:01", text)
	case mac[0]&1 != 0:
		return nil, invalid("the MAC address asked for, %s, is a group address (its first octet is odd): give a unicast address", mac)
	case mac.String() == "00:00:00:00:00:00":
		return nil, invalid("the MAC address asked for is all zeros: leave it out, and the plugin makes one")
	}
	return mac, nil
}

// validAttachments are the attachments that a GC has to keep.
type validAttachments []struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

// parseValidAttachments insists on the list. If a missing list counted as empty, a GC
// would disconnect every pod.
func parseValidAttachments(raw json.RawMessage) (validAttachments, error) {
	var list validAttachments
	if len(raw) == 0 {
		return nil, invalid("cni.dev/valid-attachments is missing: a GC has to say what to keep, [] for nothing")
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, invalid("cni.dev/valid-attachments can't be read: %s", err)
	}
	return list, nil
}
