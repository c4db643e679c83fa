package etcd

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/pkg/config/strictyaml"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
	"github.com/overlay-cni/overlay-cni/pkg/subnet"
)

// config is the configuration that all hosts share.
type config struct {
	pools    []pool // one a family, in the order in which pods get addresses
	settings []byte // see settingsText
}

// fits reports whether a host may keep these subnets: one of each pool, in the
// same order.
func (c config) fits(subnets []netip.Prefix) bool {
	return slices.EqualFunc(c.pools, subnets, pool.fits)
}

// parseConfig reads the configuration in the key called name. Its error joins
// all mistakes, in the order of the lines.
func parseConfig(name string, data []byte) (config, error) {
	d := configDecoder{reader: strictyaml.NewReader(name)}
	d.document(data)
	if d.reader.Len() == 0 {
		d.finish()
	}
	if err := registry.Summary(d.reader.Mistakes()); err != nil {
		return config{}, err
	}
	return d.config, nil
}

// place is a value with its position in the document.
type place[T any] struct {
	value T
	at    strictyaml.Value
}

type configDecoder struct {
	reader   *strictyaml.Reader
	config   config
	networks []place[netip.Prefix]
	lengths  map[family.Family]place[int]
	exclude  []place[netip.Prefix]
}

func (d *configDecoder) document(data []byte) {
	d.lengths = map[family.Family]place[int]{}
	root := d.reader.Document(data)
	if root == nil {
		if d.reader.Len() == 0 {
			d.reader.Add(nil, "", errors.New("is empty: expected networks, such as networks: [10.244.0.0/16]"))
		}
		return
	}
	keys := []string{"networks", "subnetLengths", "exclude", "settings"}
	for key, value := range d.reader.Fields(strictyaml.Mapping{Node: root, Keys: keys}) {
		switch key {
		case "networks":
			d.networks = d.prefixes(value, "networks, such as [10.244.0.0/16]")
		case "subnetLengths":
			d.subnetLengths(value)
		case "exclude":
			d.exclude = d.prefixes(value, "networks that no host gets, such as [10.244.0.0/24]")
		case "settings":
			d.settings(data, root, value)
		}
	}
	if len(d.networks) == 0 && d.reader.Len() == 0 {
		d.reader.Add(root, "networks", errors.New("is missing: expected one network of a family, such as [10.244.0.0/16, fd00:1::/48]"))
	}
}

func (d *configDecoder) prefixes(list strictyaml.Value, want string) []place[netip.Prefix] {
	var all []place[netip.Prefix]
	for _, item := range d.reader.Items(list, want) {
		text, ok := d.reader.Text(item, "a network such as 10.244.0.0/16")
		if !ok {
			continue
		}
		p, err := parseNetwork(text)
		if err != nil {
			d.reader.Add(item.Node, item.Key, err)
			continue
		}
		all = append(all, place[netip.Prefix]{p, item})
	}
	return all
}

func parseNetwork(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return p, fmt.Errorf("%s: expected a network such as 10.244.0.0/16 or fd00:1::/48", strictyaml.Quote(text))
	case p.Addr().Is4In6():
		return p, fmt.Errorf("%s: expected a network in IPv4 form, not IPv4 in IPv6", strictyaml.Quote(text))
	case p != p.Masked():
		return p, fmt.Errorf("%s: expected a network without host bits: write %s", strictyaml.Quote(text), p.Masked())
	}
	return p, nil
}

// defaultLength is the usual prefix length: a /24 has room for 253 pods, and a /64
// is the length of an IPv6 link.
func defaultLength(f family.Family) int {
	if f == family.IPv4 {
		return 24
	}
	return 64
}

func (d *configDecoder) subnetLengths(value strictyaml.Value) {
	mapping := strictyaml.Mapping{Node: value.Node, Path: value.Key, Keys: []string{family.IPv4.Proc(), family.IPv6.Proc()}}
	for key, item := range d.reader.Fields(mapping) {
		text, ok := d.reader.Text(item, "a length such as 24")
		if !ok {
			continue
		}
		f := family.IPv4
		if key == family.IPv6.Proc() {
			f = family.IPv6
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > f.Bits() || strconv.Itoa(n) != text {
			d.reader.Add(item.Node, item.Key, fmt.Errorf("%s: expected a whole number of bits, such as %d",
				strictyaml.Quote(text), defaultLength(f)))
			continue
		}
		d.lengths[f] = place[int]{n, item}
	}
}

func (d *configDecoder) settings(data []byte, root *yaml.Node, value strictyaml.Value) {
	if value.Node.Kind != yaml.MappingNode {
		d.reader.Add(value.Node, value.Key, errors.New("expected a mapping of the daemon's settings, such as {mtu: 1400}, or no line at all"))
		return
	}
	d.config.settings = settingsText(data, root, value.Node)
}

// finish checks values against each other.
func (d *configDecoder) finish() {
	families := map[family.Family]place[netip.Prefix]{}
	for _, n := range d.networks {
		f := family.Of(n.value.Addr())
		if first, twice := families[f]; twice {
			d.reader.Add(n.at.Node, n.at.Key, fmt.Errorf("%s is of the same family as %s: keep one of them", n.value, first.value))
			continue
		}
		families[f] = n
		d.addPool(f, n)
	}
	for f, l := range d.lengths {
		if _, used := families[f]; !used {
			d.reader.Add(l.at.Node, l.at.Key, errors.New("is for a family that has no network: add the network, or remove this line"))
		}
	}
	for _, e := range d.exclude {
		d.addExclude(e)
	}
}

func (d *configDecoder) addPool(f family.Family, n place[netip.Prefix]) {
	length, at := defaultLength(f), n.at
	if l, given := d.lengths[f]; given {
		length, at = l.value, l.at
	}
	p := pool{network: n.value, length: length}
	key := "subnetLengths." + f.Proc()
	switch split := length - n.value.Bits(); {
	case split < 0:
		d.reader.Add(at.Node, at.Key, fmt.Errorf("network %s is smaller than the /%d that each host gets: set %s to %d or more",
			n.value, length, key, n.value.Bits()+1))
	case split > maxSplit:
		d.reader.Add(at.Node, at.Key, fmt.Errorf("network %s has more than 2^%d parts of length /%d: set %s to %d or less",
			n.value, maxSplit, length, key, n.value.Bits()+maxSplit))
	default:
		// The last subnet stands for the length of all.
		if err := subnet.Check(p.subnet(p.size() - 1)); err != nil {
			d.reader.Add(at.Node, at.Key, fmt.Errorf("the subnets of network %s are unusable: %w", n.value, err))
		} else if special, overlaps := subnet.Special(n.value); overlaps {
			d.reader.Add(n.at.Node, n.at.Key, fmt.Errorf("network %s overlaps %s: choose one of unicast addresses that can be routed", n.value, special))
		}
	}
	d.config.pools = append(d.config.pools, p)
}

func (d *configDecoder) addExclude(e place[netip.Prefix]) {
	for i, p := range d.config.pools {
		if p.network.Contains(e.value.Addr()) && e.value.Bits() >= p.network.Bits() {
			d.config.pools[i].exclude = append(p.exclude, e.value)
			return
		}
	}
	d.reader.Add(e.at.Node, e.at.Key, fmt.Errorf("%s lies in none of the networks: remove it, or write a part of one", e.value))
}

// settingsText returns the value of "settings" as a document of its own. It
// replaces the rest of the configuration by blanks, so that messages about the
// settings have the right lines and columns. If the configuration is a flow mapping
// ({...}), the lines don't show where the value ends, so settingsText encodes the
// value again.
func settingsText(data []byte, root, value *yaml.Node) []byte {
	lines := strings.SplitAfter(string(data), "\n")
	if root.Style&yaml.FlowStyle != 0 || value.Line > len(lines) { // YAML knows other line ends, too
		text, _ := yaml.Marshal(value) // it was parsed, so it can be written
		return text
	}
	end := len(lines)
	for pair := range slices.Chunk(root.Content, 2) {
		if line := pair[0].Line; line > value.Line {
			end = min(end, line-1)
		}
	}
	var b bytes.Buffer
	b.WriteString(strings.Repeat("\n", value.Line-1))
	b.WriteString(strings.Repeat(" ", value.Column-1))
	// Columns count characters.
	first := []rune(lines[value.Line-1])
	b.WriteString(string(first[min(value.Column-1, len(first)):]))
	for _, line := range lines[min(value.Line, end):end] {
		b.WriteString(line)
	}
	return b.Bytes()
}
