package hosts

import (
	"fmt"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/pkg/plugin"
)

// ranges is an ipam section with one range of these keys.
func ranges(keyValues ...string) map[string]any {
	r := map[string]any{}
	for i := 0; i < len(keyValues); i += 2 {
		r[keyValues[i]] = keyValues[i+1]
	}
	return map[string]any{"ipam": map[string]any{"ranges": [][]map[string]any{{r}}}}
}

// hostPort is a runtimeConfig that asks for a port of an address of the host.
func hostPort(hostIP string) map[string]any {
	return map[string]any{"runtimeConfig": map[string]any{"portMappings": []map[string]any{{"hostPort": 8080, "containerPort": 80, "hostIP": hostIP}}}}
}

// TestBadInputIsRefused runs ADD with wrong input. Each ADD returns an error that
// names the input and what would be right, and leaves nothing behind.
func TestBadInputIsRefused(t *testing.T) {
	t.Parallel()
	p := newPlugin(t, "10.244.1.0/24")
	ns := sandboxtest.NewNetns(t)
	before := p.snapshot(t)
	for _, tc := range []struct {
		name  string
		call  invocation
		code  uint
		words []string // that the message has
	}{
		{"malformed JSON", invocation{stdin: []byte(`{"cniVersion":`)}, types.ErrDecodingFailure, []string{"unexpected end of JSON"}},
		{"a key of the wrong type", invocation{stdin: p.with(map[string]any{"mtu": "big"})}, types.ErrDecodingFailure, []string{`key "mtu": expected a number, found string`}},
		{"no name", invocation{stdin: p.with(map[string]any{"name": nil})}, types.ErrInvalidNetworkConfig, []string{"missing network name"}},
		{"unknown type", invocation{stdin: p.with(map[string]any{"type": "overlay"})}, types.ErrInvalidNetworkConfig, []string{`"overlay"`, `"overlay-cni"`}},
		{"unknown ipam.type", invocation{stdin: p.with(map[string]any{"ipam": map[string]any{"type": "dhcp"}})}, types.ErrInvalidNetworkConfig, []string{`"dhcp"`, "leave it out"}},
		{"host-local's older form", invocation{stdin: p.with(map[string]any{"ipam": map[string]any{"subnet": "10.0.0.0/24"}})}, types.ErrInvalidNetworkConfig, []string{`"ranges": [[{"subnet": "10.0.0.0/24"}]]`}},
		{"no subnet", invocation{stdin: p.with(ranges("rangeStart", "10.0.0.1"))}, types.ErrInvalidNetworkConfig, []string{"no subnet"}},
		{"not a subnet", invocation{stdin: p.with(ranges("subnet", "10.0.0.0"))}, types.ErrInvalidNetworkConfig, []string{`"10.0.0.0"`, "10.244.1.0/24"}},
		{"a subnet with host bits", invocation{stdin: p.with(ranges("subnet", "10.0.0.7/24"))}, types.ErrInvalidNetworkConfig, []string{"write 10.0.0.0/24"}},
		{"a subnet too small for a gateway", invocation{stdin: p.with(ranges("subnet", "10.0.0.0/31"))}, types.ErrInvalidNetworkConfig, []string{"10.0.0.0/31 is too small", "/30"}},
		{"an IPv6 subnet too small", invocation{stdin: p.with(ranges("subnet", "fd00::/127"))}, types.ErrInvalidNetworkConfig, []string{"fd00::/127 is too small", "/126"}},
		{"a subnet of link-local addresses", invocation{stdin: p.with(ranges("subnet", "fe80::/64"))}, types.ErrInvalidNetworkConfig, []string{"fe80::/64 is not a range of unicast addresses"}},
		{"a subnet of groups", invocation{stdin: p.with(ranges("subnet", "ff05::/64"))}, types.ErrInvalidNetworkConfig, []string{"ff05::/64 is not a range of unicast addresses"}},
		{"IPv4 in the form of IPv6", invocation{stdin: p.with(ranges("subnet", "::ffff:10.0.0.0/120"))}, types.ErrInvalidNetworkConfig, []string{"::ffff:10.0.0.0/120 is an IPv4-mapped IPv6 prefix: write it as IPv4"}},
		{"a gateway with a zone", invocation{stdin: p.with(ranges("subnet", "fd00::/64", "gateway", "fd00::1%eth0"))}, types.ErrInvalidNetworkConfig, []string{"gateway fd00::1%eth0 of subnet fd00::/64 has a zone: write fd00::1"}},
		{"a gateway of the other family", invocation{stdin: p.with(ranges("subnet", "fd00::/64", "gateway", "10.0.0.1"))}, types.ErrInvalidNetworkConfig, []string{"gateway 10.0.0.1 is not a usable address of subnet fd00::/64", "fd00::1"}},
		{"an MTU too small for IPv6", invocation{stdin: p.with(map[string]any{"mtu": 1279, "ipam": ranges("subnet", "fd00::/64")["ipam"]})}, types.ErrInvalidNetworkConfig, []string{"mtu 1279 is less than the 1280 that IPv6 needs", "fd00::/64"}},
		{"a set of two families", invocation{stdin: p.with(map[string]any{"ipam": map[string]any{"ranges": [][]map[string]any{{{"subnet": "10.0.0.0/24"}, {"subnet": "fd00::/64"}}}}})}, types.ErrInvalidNetworkConfig, []string{"subnets 10.0.0.0/24 and fd00::/64 are in one range set but of two address families: give each family a set of its own"}},
		{"families twice, in mixed order", invocation{stdin: p.with(map[string]any{"ipam": map[string]any{"ranges": [][]map[string]any{{{"subnet": "fd00::/64"}}, {{"subnet": "10.0.0.0/24"}}, {{"subnet": "fd01::/64"}}}}})}, types.ErrInvalidNetworkConfig, []string{"two range sets of IPv6, the second with fd01::/64"}},
		{"an address outside the range", invocation{stdin: p.with(ranges("subnet", "10.0.0.0/24", "rangeStart", "10.0.1.5"))}, types.ErrInvalidNetworkConfig, []string{"rangeStart 10.0.1.5", "10.0.0.1 to 10.0.0.254"}},
		{"a gateway outside the range", invocation{stdin: p.with(ranges("subnet", "10.0.0.0/24", "gateway", "10.0.1.1"))}, types.ErrInvalidNetworkConfig, []string{"gateway 10.0.1.1", "10.0.0.1 to 10.0.0.254"}},
		{"not an address", invocation{stdin: p.with(ranges("subnet", "10.0.0.0/24", "gateway", "first"))}, types.ErrInvalidNetworkConfig, []string{`gateway "first"`}},
		{"two ranges of one family", invocation{stdin: p.with(map[string]any{"ipam": map[string]any{"ranges": [][]map[string]any{{{"subnet": "10.0.0.0/24"}}, {{"subnet": "10.0.1.0/24"}}}}})}, types.ErrInvalidNetworkConfig, []string{"two range sets of IPv4", "10.0.1.0/24"}},
		{"a route without a gateway of its family", invocation{stdin: p.with(map[string]any{"ipam": map[string]any{"ranges": [][]map[string]any{{{"subnet": "10.0.0.0/24"}}}, "routes": []map[string]any{{"dst": "fd01::/64"}}}})}, types.ErrInvalidNetworkConfig, []string{"fd01::/64 has no gateway of its address family"}},
		{"a bridge name the kernel can't have", invocation{stdin: p.with(map[string]any{"bridge": "a/b"})}, types.ErrInvalidNetworkConfig, []string{`bridge "a/b"`, "1 to 15 characters"}},
		{"an MTU that is no MTU", invocation{stdin: p.with(map[string]any{"mtu": 70000})}, types.ErrInvalidNetworkConfig, []string{"mtu 70000", "576 to 65535"}},
		{"a relative run directory", invocation{stdin: p.with(map[string]any{"runDir": "run"})}, types.ErrInvalidNetworkConfig, []string{`runDir "run"`, "absolute"}},
		{"a typing error", invocation{stdin: p.with(map[string]any{"brigde": "cni1"})}, types.ErrInvalidNetworkConfig, []string{`unknown key "brigde": did you mean "bridge"?`}},
		{"a typing error of a range", invocation{stdin: p.with(ranges("subnet", "10.0.0.0/24", "rangeSart", "10.0.0.9"))}, types.ErrInvalidNetworkConfig, []string{`unknown key "ipam.ranges.rangeSart": did you mean "rangeStart"?`}},
		{"another plugin's key", invocation{stdin: p.with(map[string]any{"ipMasq": true})}, types.ErrInvalidNetworkConfig, []string{`unknown key "ipMasq": overlayd masquerades`}},
		{"a host port of the other family", invocation{stdin: p.with(hostPort("::"))}, types.ErrInvalidNetworkConfig, []string{"host port [::]:8080/tcp is for IPv6 alone, and the pod gets no such address"}},
		{"a host port at an address of the other family", invocation{stdin: p.with(hostPort("fd00::5"))}, types.ErrInvalidNetworkConfig, []string{"host port [fd00::5]:8080/tcp is for IPv6 alone"}},
		{"a netns that does not exist", invocation{netns: "/run/netns/gone"}, types.ErrInvalidNetNS, []string{"/run/netns/gone", "does not exist"}},
		{"a netns that is a file", invocation{netns: "/proc/self/exe"}, types.ErrInvalidNetNS, []string{"/proc/self/exe", "is not a network namespace"}},
		{"a namespace of another kind", invocation{netns: "/proc/self/ns/mnt"}, types.ErrInvalidNetNS, []string{"is not a network namespace"}},
		{"the host's own netns", invocation{netns: "/proc/self/ns/net"}, types.ErrInvalidNetNS, []string{"host's own"}},
		{"an interface name that is taken", invocation{ifName: "lo"}, plugin.CodeIfNameTaken, []string{"already has an interface of that name: lo"}},
		{"an interface name the kernel can't have", invocation{ifName: "a b"}, types.ErrInvalidEnvironmentVariables, []string{"interface name"}},
		{"a container id with a path", invocation{id: "../../etc"}, types.ErrInvalidEnvironmentVariables, []string{"containerID"}},
		{"CNI_ARGS that are none", invocation{args: "K8S_POD_NAME"}, types.ErrInvalidEnvironmentVariables, []string{`"K8S_POD_NAME" is not KEY=VALUE`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.call.command = "ADD"
			tc.call.netns = or(tc.call.netns, ns.Path())
			out, cniErr := p.run(t, tc.call)
			if cniErr == nil {
				t.Fatalf("accepted: %s", out)
			}
			for _, w := range tc.words {
				if !strings.Contains(cniErr.Msg+" "+cniErr.Details, w) {
					t.Errorf("%q does not say %q", cniErr.Msg+" "+cniErr.Details, w)
				}
			}
			if cniErr.Code != tc.code {
				t.Errorf("code %d, want %d: %s", cniErr.Code, tc.code, cniErr)
			}
			if after := p.snapshot(t); after != before {
				t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

func TestBridgeNameOfAnotherDeviceIsRefused(t *testing.T) {
	t.Parallel()
	p := newPlugin(t, "10.244.1.0/24")
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "cni0"
	if err := p.host.Handle().LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "other"}); err != nil {
		t.Fatal(err)
	}
	before := p.snapshot(t)
	_, cniErr := p.run(t, invocation{command: "ADD", netns: sandboxtest.NewNetns(t).Path()})
	want := `cni0 is of kind "veth", not a bridge: remove it (ip link del cni0), or set the key "bridge" to another name`
	if cniErr == nil || cniErr.Code != plugin.CodeUnmanagedDevice || !strings.Contains(cniErr.Msg, want) {
		t.Errorf("got  %v\nwant %s", cniErr, want)
	}
	if after := p.snapshot(t); after != before {
		t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
	}
}

func TestNoAddressLeft(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, subnet string }{{"IPv4", "10.244.1.0/30"}, {"IPv6", "fd00:244:1::/126"}} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPlugin(t, tc.subnet)
			n := 0
			for ; n < 4; n++ {
				ns := sandboxtest.NewNetns(t)
				before := p.snapshot(t)
				_, cniErr := p.run(t, invocation{command: "ADD", id: fmt.Sprint("pod", n), netns: ns.Path()})
				if cniErr == nil {
					continue
				}
				want := fmt.Sprintf("no address left in %s: %d of %d are in use (\"ls -l %s/addresses\" shows by whom)", tc.subnet, n, n, p.host.RunDir())
				if cniErr.Code != plugin.CodeNoAddress || !strings.HasPrefix(cniErr.Msg, want) {
					t.Errorf("got  %v\nwant %s", cniErr, want)
				}
				if after := p.snapshot(t); after != before {
					t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
				}
				break
			}
			if n == 0 || n == 4 {
				t.Fatalf("%d pods got an address", n)
			}
			p.del(t, "pod0")
			p.add(t, "late")
		})
	}
}
