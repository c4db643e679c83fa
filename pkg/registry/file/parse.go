package file

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/overlay-cni/overlay-cni/pkg/config/strictyaml"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

func content(path string) ([]byte, error) {
	// Opening a pipe would wait for its other end.
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read the nodes file: %s is not a regular file", path)
	}
	data, err := strictyaml.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the nodes file: %w", err)
	}
	return data, nil
}

// reader returns the nodes of a file that is read again and again. It parses the
// content only if it changed: parsing takes many times as long as reading and
// hashing.
type reader struct {
	path  string
	known bool
	sum   [sha256.Size]byte
	nodes []registry.Node
	err   error
}

func (r *reader) read() ([]registry.Node, error) {
	data, err := content(r.path)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(data); !r.known || sum != r.sum {
		r.nodes, r.err = parse(r.path, data)
		r.known, r.sum = true, sum
	}
	return r.nodes, r.err
}

// parse reads the content of the file called name. The nodes are sorted by name
// and free of contradictions. The error joins all mistakes in the order of the
// lines.
func parse(name string, data []byte) ([]registry.Node, error) {
	d := decoder{reader: strictyaml.NewReader(name), set: registry.NewSet(), places: map[string]*yaml.Node{}}
	d.document(data)
	for _, p := range d.set.Problems() {
		d.reader.Add(d.places[p.Node], "", p.Err)
	}
	if err := registry.Summary(d.reader.Mistakes()); err != nil {
		return nil, err
	}
	return d.set.Nodes()
}

// decoder takes nodes out of a file. It leaves out nodes with a mistake in the
// file, so that it also finds contradictions between the others.
type decoder struct {
	reader *strictyaml.Reader
	set    *registry.Set
	places map[string]*yaml.Node // where each node begins, by name
}

// document requires the list: a file without a list is most likely half
// written, and reading it as "no nodes" would end the traffic of all nodes. An
// empty list has to be written: [].
func (d *decoder) document(data []byte) {
	root := d.reader.Document(data)
	found := false
	if root != nil {
		for _, list := range d.reader.Fields(strictyaml.Mapping{Node: root, Keys: []string{"nodes"}}) {
			found = true
			for _, item := range d.reader.Items(list, "nodes, or [] for none") {
				d.node(item)
			}
		}
	}
	if !found && d.reader.Len() == 0 {
		d.reader.Add(root, "nodes", errors.New("is missing: expected the list of nodes, or nodes: [] for none"))
	}
}

// required returns the keys that a node must have.
func required() []string { return []string{"name", "addresses", "podSubnets"} }

// keys returns all keys of a node.
func keys() []string { return append(required(), "nat") }

func (d *decoder) node(item strictyaml.Value) {
	before := d.reader.Len()
	var n registry.Node
	seen := map[string]bool{}
	for key, value := range d.reader.Fields(strictyaml.Mapping{Node: item.Node, Path: item.Key, Keys: keys()}) {
		seen[key] = true
		switch key {
		case "name":
			n.Name = d.name(value)
		case "addresses":
			n.Addresses = items(d, value, netip.ParseAddr, kind{"an address such as 192.168.77.1", "addresses, such as [192.168.77.1]"})
		case "podSubnets":
			n.Subnets = items(d, value, netip.ParsePrefix, kind{"a network such as 10.244.1.0/24", "networks, such as [10.244.1.0/24]"})
		case "nat":
			n.NAT = d.truth(value)
		}
	}
	if d.reader.Len() == before {
		d.require(item, seen)
	}
	if d.reader.Len() == before {
		d.add(n, item)
	}
}

func (d *decoder) truth(value strictyaml.Value) bool {
	text, ok := d.reader.Text(value, "true or false")
	if ok && text != "true" && text != "false" {
		d.reader.Add(value.Node, value.Key, fmt.Errorf("%s: expected true or false", strictyaml.Quote(text)))
	}
	return text == "true"
}

func (d *decoder) name(value strictyaml.Value) string {
	name, ok := d.reader.Text(value, "a name")
	if ok {
		if err := registry.CheckName(name); err != nil {
			d.reader.Add(value.Node, value.Key, err)
		}
	}
	return name
}

func (d *decoder) add(n registry.Node, item strictyaml.Value) {
	if first, twice := d.places[n.Name]; twice {
		d.reader.Add(item.Node, item.Key, fmt.Errorf("the name %q is given twice, first in line %d: rename or remove one node", n.Name, first.Line))
		return
	}
	d.places[n.Name] = item.Node
	d.set.Put(registry.Entry{Node: n})
}

func (d *decoder) require(item strictyaml.Value, seen map[string]bool) {
	for _, key := range required() {
		if !seen[key] {
			d.reader.Add(item.Node, item.Key+"."+key, fmt.Errorf("is missing: a node has the keys %s", strings.Join(required(), ", ")))
		}
	}
}

// kind says in words what a list has to hold.
type kind struct{ one, many string }

// items parses the values of a list. An empty list is a mistake.
func items[T any](d *decoder, list strictyaml.Value, parse func(string) (T, error), want kind) []T {
	var all []T
	for _, item := range d.reader.Items(list, want.many) {
		text, ok := d.reader.Text(item, want.one)
		if !ok {
			continue
		}
		v, err := parse(text)
		if err != nil {
			d.reader.Add(item.Node, item.Key, fmt.Errorf("%s: expected %s", strictyaml.Quote(text), want.one))
			continue
		}
		all = append(all, v)
	}
	if list.Node.Kind == yaml.SequenceNode && len(list.Node.Content) == 0 {
		d.reader.Add(list.Node, list.Key, fmt.Errorf("is empty: expected a list of %s", want.many))
	}
	return all
}
