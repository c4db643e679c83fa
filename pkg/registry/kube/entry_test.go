package kube

import (
	stdcmp "cmp"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

// column is a column of the tables: the families that a cluster uses.
type column struct {
	name             string
	internal, extern string // addresses, with spaces between
	other            string // as internal, of another host
	cidrs, cidrs2    string // pod subnets of two nodes
}

func families() []column {
	return []column{
		{"IPv4", "192.0.2.1", "198.51.100.1", "192.0.2.9", "10.244.1.0/24", "10.244.2.0/24"},
		{"IPv6", "fd77::1", "2001:db8::1", "fd77::9", "fd44:0:0:1::/64", "fd44:0:0:2::/64"},
		{"dual stack", "192.0.2.1 fd77::1", "198.51.100.1 2001:db8::1", "192.0.2.9 fd77::9",
			"10.244.1.0/24 fd44:0:0:1::/64", "10.244.2.0/24 fd44:0:0:2::/64"},
		{"IPv6 first", "fd77::1 192.0.2.1", "2001:db8::1 198.51.100.1", "fd77::9 192.0.2.9",
			"fd44:0:0:1::/64 10.244.1.0/24", "fd44:0:0:2::/64 10.244.2.0/24"},
	}
}

func parseAll[T any](list string, parse func(string) T) []T {
	var all []T
	for field := range strings.FieldsSeq(list) {
		all = append(all, parse(field))
	}
	return all
}

func addrs(list string) []netip.Addr      { return parseAll(list, netip.MustParseAddr) }
func prefixes(list string) []netip.Prefix { return parseAll(list, netip.MustParsePrefix) }

// object is a Node with these pod subnets and addresses of a kind.
func object(name, cidrs string, addresses ...corev1.NodeAddress) *node {
	return &node{
		ObjectMeta: metav1.ObjectMeta{Name: name}, podCIDRs: strings.Fields(cidrs), addresses: addresses,
	}
}

func of(kind corev1.NodeAddressType, list string) []corev1.NodeAddress {
	var all []corev1.NodeAddress
	for text := range strings.FieldsSeq(list) {
		all = append(all, corev1.NodeAddress{Type: kind, Address: text})
	}
	return all
}

func equalNodes() cmp.Option {
	return cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()}
}

func TestEntryOf(t *testing.T) {
	for _, f := range families() {
		for _, tt := range []struct {
			name      string
			object    *node
			addresses string // expected
			subnets   string
			err       string
			out       bool
		}{
			{name: "internal address", object: object("a", f.cidrs, of("InternalIP", f.internal)...),
				addresses: f.internal, subnets: f.cidrs},
			{name: "internal before external", object: object("a", f.cidrs, append(of("ExternalIP", f.extern), of("InternalIP", f.internal)...)...),
				addresses: f.internal, subnets: f.cidrs},
			{name: "external only", object: object("a", f.cidrs, of("ExternalIP", f.extern)...),
				addresses: f.extern, subnets: f.cidrs},
			{name: "first of each family", object: object("a", f.cidrs, of("InternalIP", f.internal+" "+f.other)...),
				addresses: f.internal, subnets: f.cidrs},
			{name: "names and nonsense are passed over", object: object("a", f.cidrs, append([]corev1.NodeAddress{
				{Type: "Hostname", Address: "a"}, {Type: "InternalDNS", Address: f.other}, {Type: "InternalIP", Address: ""}, {Type: "InternalIP", Address: "fe80::1"}, {Type: "InternalIP", Address: "127.0.0.1"}, {Type: "InternalIP", Address: "fd77::7%eth0"},
			}, of("InternalIP", f.internal)...)...), addresses: f.internal, subnets: f.cidrs},
			{name: "no subnet yet", object: object("a", "", of("InternalIP", f.internal)...),
				addresses: f.internal},
			{name: "nothing yet", object: object("a", ""), out: true},
			{name: "no address", object: object("a", f.cidrs, corev1.NodeAddress{Type: "Hostname", Address: "a"}), subnets: f.cidrs, out: true,
				err: `node "a" has no address by which other hosts reach it (status.addresses has no usable InternalIP or ExternalIP): wait for the kubelet or the cloud controller, or set the annotation overlay-cni.io/address`},
			{name: "subnet that is none", object: object("a", f.cidrs+" 10.0.0.0", of("InternalIP", f.internal)...), addresses: f.internal, out: true,
				err: `node "a": spec.podCIDRs has "10.0.0.0": expected a network such as 10.244.1.0/24`},
			{name: "subnet with host bits", object: object("a", "10.244.1.1/24", of("InternalIP", f.internal)...), addresses: f.internal, subnets: "10.244.1.1/24", out: true,
				err: `node "a": pod subnet 10.244.1.1/24 has host bits set: write 10.244.1.0/24`},
		} {
			t.Run(f.name+"/"+tt.name, func(t *testing.T) {
				got := entryOf(tt.object, "own", nil)
				want := registry.Node{Name: "a", Addresses: addrs(tt.addresses), Subnets: prefixes(tt.subnets)}
				if diff := cmp.Diff(want, got.Node, equalNodes()); diff != "" {
					t.Errorf("node (-want +got):\n%s", diff)
				}
				if out, err := inSet(got); out != tt.out || text(err) != tt.err {
					t.Errorf("out is %v, want %v; error %q, want %q", out, tt.out, text(err), tt.err)
				}
			})
		}
	}
}

// inSet says whether a set leaves the entry out, and why.
func inSet(e registry.Entry) (out bool, err error) {
	s := registry.NewSet()
	s.Put(e)
	nodes, err := s.Nodes()
	return len(nodes) == 0, err
}

// The entry of this host says what the host is waiting for.
func TestEntryOfTheOwnNode(t *testing.T) {
	for _, f := range families() {
		for name, tt := range map[string]struct {
			object *node
			out    bool
			err    string
		}{
			"complete":  {object: object("own", f.cidrs, of("InternalIP", f.internal)...)},
			"no subnet": {object: object("own", "", of("InternalIP", f.internal)...), err: `node "own" waits for its pod subnet (spec.podCIDRs is empty): kube-controller-manager gives it one if it runs with --allocate-node-cidrs and --cluster-cidr`},
			"nothing":   {object: object("own", ""), out: true, err: `node "own" has no address by which other hosts reach it (status.addresses has no usable InternalIP or ExternalIP): wait for the kubelet or the cloud controller, or set the annotation overlay-cni.io/address`},
		} {
			t.Run(f.name+"/"+name, func(t *testing.T) {
				if got := entryOf(tt.object, "own", nil); got.Excluded != tt.out || text(got.Err) != tt.err {
					t.Errorf("out is %v, want %v; error %q, want %q", got.Excluded, tt.out, text(got.Err), tt.err)
				}
			})
		}
	}
}

// An operator's mistake takes no node off the network: the node keeps the addresses
// that it has, or else gets those of its status.
func TestOverride(t *testing.T) {
	const expected = ": expected an address such as 192.0.2.1, or one of each family such as 192.0.2.1,fd00::1"
	for value, want := range map[string]struct{ addresses, err string }{
		"203.0.113.7":             {addresses: "203.0.113.7"},
		"fd99::7":                 {addresses: "fd99::7"},
		" 203.0.113.7 , fd99::7":  {addresses: "203.0.113.7 fd99::7"},
		"fd99::7,203.0.113.7":     {addresses: "fd99::7 203.0.113.7"},
		" ":                       {addresses: "192.0.2.1"}, // as if there were none
		"203.0.113.7,":            {err: `node "a": annotation overlay-cni.io/address is "203.0.113.7,"` + expected},
		"eth0":                    {err: `node "a": annotation overlay-cni.io/address is "eth0"` + expected},
		strings.Repeat("x", 200):  {err: `node "a": annotation overlay-cni.io/address is "` + strings.Repeat("x", 100) + `..."` + expected},
		"203.0.113.7,203.0.113.8": {err: `node "a": addresses 203.0.113.7 and 203.0.113.8 are of one family: keep one of them`},
		"127.0.0.1":               {err: `node "a": address 127.0.0.1 is a loopback address: give the address by which the other hosts reach this host`},
		"10.244.1.7":              {err: `node "a": address 10.244.1.7 lies inside pod subnet 10.244.1.0/24 of the same node: give the host an address outside of all pod subnets`},
	} {
		for _, current := range []string{"", "198.51.100.3", "192.0.2.1"} {
			n := object("a", "10.244.1.0/24", of("InternalIP", "192.0.2.1")...)
			n.override = value
			s := registry.NewSet()
			s.Put(entryOf(n, "own", addrs(current)))
			nodes, err := s.Nodes()
			if len(nodes) != 1 {
				t.Errorf("%q: the node is left out: %v", value, err)
				continue
			}
			addresses, message := want.addresses, want.err
			if want.err != "" {
				addresses = stdcmp.Or(current, "192.0.2.1")
				message += "; until then it is reached at " + addresses
			}
			if diff := cmp.Diff(addrs(addresses), nodes[0].Addresses, equalNodes()); diff != "" || text(err) != message {
				t.Errorf("%q: error %q, want %q; addresses (-want +got):\n%s", value, text(err), message, diff)
			}
		}
	}
	// There is nothing to fall back to.
	n := object("a", "10.244.1.0/24")
	n.override = "eth0"
	if out, err := inSet(entryOf(n, "own", nil)); !out || text(err) != `node "a": annotation overlay-cni.io/address is "eth0"`+expected {
		t.Errorf("out is %v, error %v", out, err)
	}
}

// Of two nodes with one address, the one whose kubelet reports it has it. An annotation
// that takes it away would lead the other node's packets elsewhere.
func TestOverrideTakesNoOtherNodesAddress(t *testing.T) {
	for _, f := range families() {
		thief := object("a", f.cidrs, of("InternalIP", f.internal)...)
		thief.override = strings.ReplaceAll(f.other, " ", ",")
		s := registry.NewSet()
		s.Put(entryOf(thief, "own", nil))
		s.Put(rec("b", f.other, f.cidrs2))
		nodes, err := s.Nodes()
		if len(nodes) != 2 || cmp.Diff(addrs(f.internal), nodes[0].Addresses, equalNodes()) != "" || !strings.Contains(text(err), `is also the address of node "b"`) {
			t.Errorf("%s: %v, %v", f.name, nodes, err)
		}
	}
}
