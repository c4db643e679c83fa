package file

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

const good = `nodes:
- name: host-b
  addresses: [192.168.77.2, "fd00:77::2"]
  podSubnets: [10.244.2.0/24, fd00:2::/64]
- name: host-a
  addresses:
  - 192.168.77.1
  podSubnets:
  - 10.244.1.0/24
  nat: true
`

func goodNodes() []registry.Node {
	return []registry.Node{{
		Name:      "host-a",
		Addresses: []netip.Addr{netip.MustParseAddr("192.168.77.1")},
		Subnets:   []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")},
		NAT:       true,
	}, {
		Name:      "host-b",
		Addresses: []netip.Addr{netip.MustParseAddr("192.168.77.2"), netip.MustParseAddr("fd00:77::2")},
		Subnets:   []netip.Prefix{netip.MustParsePrefix("10.244.2.0/24"), netip.MustParsePrefix("fd00:2::/64")},
	}}
}

// equalNodes makes cmp look into netip values.
func equalNodes() cmp.Option { return cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}) }

func TestParseSortsByName(t *testing.T) {
	nodes, err := parse("nodes.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(goodNodes(), nodes, equalNodes()); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
}

func TestParseTakesAnExplicitlyEmptyList(t *testing.T) {
	nodes, err := parse("nodes.yaml", []byte("nodes: []\n"))
	if err != nil || nodes == nil || len(nodes) != 0 {
		t.Errorf("got %v, %v; want an empty set that is not nil", nodes, err)
	}
}

func TestParseRefuses(t *testing.T) {
	tests := map[string]struct{ text, want string }{
		"empty":        {"", `n.yaml: nodes: is missing: expected the list of nodes, or nodes: [] for none`},
		"only comment": {"# nodes:\n", `n.yaml: nodes: is missing: expected the list of nodes, or nodes: [] for none`},
		"empty mapping": {"{}\n",
			`n.yaml:1:1: nodes: is missing: expected the list of nodes, or nodes: [] for none`},
		"half written": {"nodes:\n", `n.yaml:1:7: nodes: has no value: expected a list of nodes, or [] for none`},
		"list at the root": {"- name: a\n",
			`n.yaml:1:1: expected a mapping with the keys nodes, found a list`},
		"unknown root key": {"node: []\n", `n.yaml:1:1: unknown key "node": did you mean "nodes"?`},
		"unknown key": {"nodes:\n- name: a\n  addresses: [10.0.0.1]\n  podSubnet: [10.1.0.0/24]\n",
			`n.yaml:4:3: nodes[0]: unknown key "podSubnet": did you mean "podSubnets"?`},
		"duplicate key": {"nodes:\n- name: a\n  name: b\n  addresses: [10.0.0.1]\n  podSubnets: [10.1.0.0/24]\n",
			`n.yaml:3:3: nodes[0].name: given twice, first in line 2: keep one`},
		"missing keys": {"nodes:\n- name: a\n",
			`n.yaml:2:3: nodes[0].addresses: is missing: a node has the keys name, addresses, podSubnets
n.yaml:2:3: nodes[0].podSubnets: is missing: a node has the keys name, addresses, podSubnets`},
		"null node": {"nodes:\n-\n",
			`n.yaml:2:2: nodes[0].name: is missing: a node has the keys name, addresses, podSubnets
n.yaml:2:2: nodes[0].addresses: is missing: a node has the keys name, addresses, podSubnets
n.yaml:2:2: nodes[0].podSubnets: is missing: a node has the keys name, addresses, podSubnets`},
		"node is a word": {"nodes: [host-a]\n",
			`n.yaml:1:9: nodes[0]: expected a mapping with the keys name, addresses, podSubnets, nat, found "host-a"`},
		"address is no list": {"nodes:\n- name: a\n  addresses: 10.0.0.1\n  podSubnets: [10.1.0.0/24]\n",
			`n.yaml:3:14: nodes[0].addresses: expected a list of addresses, such as [192.168.77.1], found "10.0.0.1"`},
		"bad values": {"nodes:\n- name: a\n  addresses: [10.0.0.1/24]\n  podSubnets: [10.1.0.0, {}]\n",
			`n.yaml:3:15: nodes[0].addresses[0]: "10.0.0.1/24": expected an address such as 192.168.77.1
n.yaml:4:16: nodes[0].podSubnets[0]: "10.1.0.0": expected a network such as 10.244.1.0/24
n.yaml:4:26: nodes[0].podSubnets[1]: expected a network such as 10.244.1.0/24, found a mapping`},
		"nat that is neither": {"nodes:\n- {name: a, addresses: [10.0.0.1], podSubnets: [10.1.0.0/24], nat: yes}\n",
			`n.yaml:2:68: nodes[0].nat: "yes": expected true or false`},
		"empty lists": {"nodes:\n- name: a\n  addresses: []\n  podSubnets: []\n",
			`n.yaml:3:14: nodes[0].addresses: is empty: expected a list of addresses, such as [192.168.77.1]
n.yaml:4:15: nodes[0].podSubnets: is empty: expected a list of networks, such as [10.244.1.0/24]`},
		"alias": {"nodes:\n- name: a\n  addresses: &x [10.0.0.1]\n  podSubnets: *x\n",
			`n.yaml:4:15: nodes[0].podSubnets: expected a list of networks, such as [10.244.1.0/24], found the alias *x: write the value itself`},
		"contradiction, at the line of the node": {
			good + "- name: host-c\n  addresses: [192.168.77.1]\n  podSubnets: [10.244.2.128/25]\n",
			`n.yaml:11:3: node "host-c": pod subnet 10.244.2.128/25 overlaps pod subnet 10.244.2.0/24 of node "host-b": give each node subnets of its own
n.yaml:11:3: node "host-c": address 192.168.77.1 is also the address of node "host-a": give each host its own`},
		"a mistake in one node hides none in the others": {
			"nodes:\n- {name: b, addresses: [10.0.0.1], podSubnets: [10.1.0.0/24]}\n- {name: c}\n- {name: a, addresses: [10.0.0.1], podSubnets: [10.2.0.0/24]}\n",
			`n.yaml:2:3: node "b": address 10.0.0.1 is also the address of node "a": give each host its own
n.yaml:3:3: nodes[1].addresses: is missing: a node has the keys name, addresses, podSubnets
n.yaml:3:3: nodes[1].podSubnets: is missing: a node has the keys name, addresses, podSubnets`},
		"name given twice": {"nodes:\n- {name: a, addresses: [10.0.0.1], podSubnets: [10.1.0.0/24]}\n- {name: a, addresses: [10.0.0.2], podSubnets: [10.2.0.0/24]}\n",
			`n.yaml:3:3: nodes[1]: the name "a" is given twice, first in line 2: rename or remove one node`},
		"name of no node": {"nodes:\n- {name: '', addresses: [10.0.0.1], podSubnets: [10.1.0.0/24]}\n",
			`n.yaml:2:10: nodes[0].name: the name is empty: write 1 to 253 letters, digits, '-', '_' and '.', beginning with a letter or digit`},
		"cut off inside of a list": {"nodes:\n- name: a\n  addresses: [10.0.0.1",
			`n.yaml:2: malformed YAML: did not find expected ',' or ']': check indentation, quotes and brackets near this place`},
		"second document": {good + "---\nnodes: []\n",
			`n.yaml:11:1: a second document begins here: keep one, and remove the line ---`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			nodes, err := parse("n.yaml", []byte(tt.text))
			if nodes != nil || err == nil {
				t.Fatalf("got %v, %v; want no nodes and an error", nodes, err)
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseShowsTheFirstMistakesOfMany(t *testing.T) {
	text := "nodes:\n" + strings.Repeat("- {}\n", 100)
	_, err := parse("n.yaml", []byte(text))
	if err == nil {
		t.Fatal("accepted")
	}
	lines := strings.Split(err.Error(), "\n")
	if last := lines[len(lines)-1]; len(lines) != 21 || last != "and 280 more" {
		t.Errorf("got %d lines, the last %q", len(lines), last)
	}
}

func TestReadRefusesWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large, 17<<20); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		dir:           "read the nodes file: " + dir + " is not a regular file",
		"/dev/zero":   "read the nodes file: /dev/zero is not a regular file",
		large:         "read the nodes file: " + large + " is larger than 16 MiB: expected a YAML file",
		dir + "/none": "read the nodes file: open " + dir + "/none: no such file or directory",
	} {
		if _, err := (&reader{path: path}).read(); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// encode writes nodes as a person would.
func encode(nodes []registry.Node) []byte {
	var b bytes.Buffer
	b.WriteString("nodes:\n")
	if len(nodes) == 0 {
		return []byte("nodes: []\n")
	}
	for _, n := range nodes {
		fmt.Fprintf(&b, "- name: %q\n  addresses:\n", n.Name)
		for _, a := range n.Addresses {
			fmt.Fprintf(&b, "  - %q\n", a)
		}
		b.WriteString("  podSubnets:\n")
		for _, s := range n.Subnets {
			fmt.Fprintf(&b, "  - %q\n", s)
		}
		fmt.Fprintf(&b, "  nat: %t\n", n.NAT)
	}
	return b.Bytes()
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		good, "", "nodes: []", "nodes:", "nodes: [{name: a, addresses: [::1%x], podSubnets: [0.0.0.0/0]}]",
		"a: &a [*a]", "---\n---\n", "? [a]\n: b", "nodes: !!binary aGk=", "\"", "nodes: [\n\n\n", "\x00", "<<: {}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		nodes, err := parse("n.yaml", data)
		if err != nil {
			if nodes != nil {
				t.Errorf("nodes beside an error: %v", nodes)
			}
			return
		}
		for _, n := range nodes {
			if err := registry.Check(n); err != nil {
				t.Errorf("accepted a node that is not valid: %v", err)
			}
		}
		if !slices.IsSortedFunc(nodes, func(a, b registry.Node) int { return strings.Compare(a.Name, b.Name) }) {
			t.Errorf("not sorted: %v", nodes)
		}
		again, err := parse("n.yaml", encode(nodes))
		if err != nil {
			t.Fatalf("refused what was accepted before: %v", err)
		}
		if diff := cmp.Diff(nodes, again, equalNodes()); diff != "" {
			t.Errorf("written and read again (-first +again):\n%s", diff)
		}
	})
}
