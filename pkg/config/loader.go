package config

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/overlay-cni/overlay-cni/pkg/config/strictyaml"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

// Loader puts the configuration together after the command line was parsed.
type Loader struct {
	path     string
	flags    []*flagValue
	hostname func() (string, error)
}

// AddFlags defines --config and a flag for each setting. The flags only keep
// their text: Load parses it, so that all mistakes are reported together.
func AddFlags(fs *pflag.FlagSet) *Loader {
	l := &Loader{hostname: os.Hostname}
	fs.StringVar(&l.path, "config", "", "YAML `file` with settings; flags win over it")
	for _, s := range settings() {
		v := &flagValue{setting: s}
		f := fs.VarPF(v, s.flag(), "", s.usage)
		f.DefValue = s.shown()
		if s.kind == kindBool {
			f.NoOptDefVal = "true"
		}
		l.flags = append(l.flags, v)
	}
	return l
}

// Load reads the file, if there is one, and joins it with flags and defaults.
// Its error joins all mistakes: those of the file in the order of its lines,
// then those of the flags.
func (l *Loader) Load() (Config, error) {
	data, err := l.read()
	if err != nil {
		return Config{}, err
	}
	return l.join(Shared{}, data)
}

func (l *Loader) read() ([]byte, error) {
	if l.path == "" {
		return nil, nil
	}
	data, err := strictyaml.ReadFile(l.path)
	if err != nil {
		return nil, fmt.Errorf("read the configuration (--config): %w", err)
	}
	return data, nil
}

// Shared are settings that a registry has for all hosts: a YAML document, and
// its name for messages.
type Shared struct {
	Name string
	YAML []byte
}

// Check says what is wrong with the document.
func (s Shared) Check() error {
	b := newBuilder()
	b.shared(s)
	return b.mistakes()
}

// join merges the sources. Flags win over the file, the file over the shared
// settings, and those over the defaults.
func (l *Loader) join(shared Shared, file []byte) (Config, error) {
	return l.build(shared, file).result()
}

func (l *Loader) build(shared Shared, file []byte) *builder {
	b := newBuilder()
	b.config.Text = string(file)
	b.shared(shared)
	b.document(l.path, file, settings())
	for _, v := range l.flags {
		if v.given {
			b.flag(v)
		}
	}
	b.cross()
	b.crossFamily()
	b.resolveName(l.hostname)
	return b
}

// flagValue is the text that a flag was given.
type flagValue struct {
	setting setting
	texts   []string
	given   bool
}

// String returns the flag's value, as pflag requires. AddFlags sets the default that
// the help shows.
func (v *flagValue) String() string { return strings.Join(v.texts, ",") }

// Type returns the word for the value in the help text. For "bool" pflag prints no
// word.
func (v *flagValue) Type() string {
	if v.setting.kind == kindBool {
		return "bool"
	}
	return v.setting.kind
}

// Set takes one occurrence of the flag. For a list, each occurrence adds one or
// several items, separated by commas. An empty text alone stands for an empty list.
func (v *flagValue) Set(text string) error {
	v.given = true
	if v.setting.clear == nil {
		v.texts = []string{text}
		return nil
	}
	if text == "" {
		return nil
	}
	for item := range strings.SplitSeq(text, ",") {
		v.texts = append(v.texts, strings.TrimSpace(item))
	}
	return nil
}

// builder collects the values of all sources. A value from a later source replaces
// the value from an earlier one.
type builder struct {
	config Config
	reader *strictyaml.Reader // of the current document
	errs   []error            // mistakes elsewhere
	// blame records a mistake about a setting, together with the place of the
	// setting's value: a line of a file, or a flag. It has an entry for each setting
	// with a value from a file or a flag.
	blame map[string]func(error)
	// refused are the settings whose value has a mistake. config holds an earlier
	// value for them.
	refused map[string]bool
}

func newBuilder() *builder {
	b := &builder{
		reader:  strictyaml.NewReader(""),
		blame:   map[string]func(error){},
		refused: map[string]bool{},
	}
	for _, s := range settings() {
		if s.fallback != "" {
			b.add(s, s.fallback, b.fail)
		}
	}
	return b
}

func (b *builder) fail(err error) { b.errs = append(b.errs, err) }

// add stores one value. If the value has a mistake, add calls blame.
func (b *builder) add(s setting, text string, blame func(error)) {
	if err := s.add(&b.config, text); err != nil {
		blame(err)
		b.refused[s.key] = true
	}
}

// begin prepares a setting for a value from another source. blame records mistakes
// at the place of that value.
func (b *builder) begin(s setting, blame func(error)) {
	b.blame[s.key] = blame
	delete(b.refused, s.key)
	if s.clear != nil {
		s.clear(&b.config)
	}
}

func (b *builder) flag(v *flagValue) {
	blame := func(err error) { b.fail(fmt.Errorf("--%s: %w", v.setting.flag(), err)) }
	b.begin(v.setting, blame)
	for _, text := range v.texts {
		b.add(v.setting, text, blame)
	}
}

// shared takes only settings that a registry may set for all hosts.
func (b *builder) shared(s Shared) {
	b.document(s.Name, s.YAML, slices.DeleteFunc(settings(), func(s setting) bool { return !s.shared }))
}

// document takes the settings of a YAML file that is called name.
func (b *builder) document(name string, data []byte, table []setting) {
	b.errs = append(b.reader.Mistakes(), b.errs...)
	b.reader = strictyaml.NewReader(name)
	root := b.reader.Document(data)
	if root == nil {
		return
	}
	keys := make([]string, len(table))
	for i, s := range table {
		keys[i] = s.key
	}
	b.section(section{node: root, keys: keys, table: table})
}

// section is a mapping in the file: the root, or that of a dotted key.
type section struct {
	node  *yaml.Node
	path  string
	keys  []string // of the whole table
	table []setting
}

// names are the keys of this section.
func (s section) names() []string {
	prefix := s.path
	if prefix != "" {
		prefix += "."
	}
	var names []string
	for _, key := range s.keys {
		rest, inside := strings.CutPrefix(key, prefix)
		name, _, _ := strings.Cut(rest, ".")
		if inside && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func (b *builder) section(s section) {
	mapping := strictyaml.Mapping{Node: s.node, Path: s.path, Keys: s.names(), Known: s.keys, Removed: removedSettings()}
	for _, value := range b.reader.Fields(mapping) {
		i := slices.Index(s.keys, value.Key)
		if i < 0 {
			b.section(section{node: value.Node, path: value.Key, keys: s.keys, table: s.table})
			continue
		}
		b.value(s.table[i], value)
	}
}

// value takes a setting out of the file.
func (b *builder) value(s setting, value strictyaml.Value) {
	b.begin(s, func(err error) { b.reader.Add(value.Node, value.Key, err) })
	if s.clear == nil {
		b.text(s, value)
		return
	}
	for _, item := range b.reader.Items(value, s.kind) {
		b.text(s, item)
	}
}

func (b *builder) text(s setting, value strictyaml.Value) {
	text, ok := b.reader.Text(value, "one value ("+s.kind+")")
	if !ok {
		b.refused[s.key] = true
		return
	}
	b.add(s, text, func(err error) { b.reader.Add(value.Node, value.Key, err) })
}

// cross checks settings against each other: bridge, tunnel device and underlay must
// have different names.
func (b *builder) cross() {
	c := b.config
	names := []struct{ key, name string }{
		{"bridge", c.Bridge}, {"vxlan.device", c.VXLAN.Device}, {"underlay", c.Underlay.Interface},
	}
	for i, second := range names {
		for _, first := range names[:i] {
			if first.name == second.name && !b.refused[first.key] && !b.refused[second.key] {
				b.clash(first.key, second.key, second.name)
			}
		}
	}
}

// crossFamily checks that an address in the setting underlay has the family of the
// setting underlayFamily.
func (b *builder) crossFamily() {
	u, family := b.config.Underlay, b.config.UnderlayFamily
	given := u.Address
	if u.Reaches.IsValid() {
		given = u.Reaches
	}
	if !given.IsValid() || family.Allows(given) || b.refused["underlayFamily"] || b.refused["underlay"] {
		return
	}
	b.blame["underlayFamily"](fmt.Errorf("%s: underlay is %s, an address of the other family: give one of %s, or leave underlayFamily out",
		quote(family.Proc()), u, family))
}

// clash records the mistake at the second setting if its value is not the default,
// else at the first. Two defaults never clash.
func (b *builder) clash(first, second, name string) {
	blame, ok := b.blame[second]
	if !ok {
		first, second = second, first
		blame = b.blame[second]
	}
	blame(fmt.Errorf("%s: %s names the same device: they must differ", quote(name), first))
}

// resolveName uses the host name if no node name is given.
func (b *builder) resolveName(hostname func() (string, error)) {
	if b.config.NodeName != "" || b.refused["nodeName"] {
		return
	}
	name, err := hostname()
	if err == nil {
		err = registry.CheckName(name)
	}
	if err != nil {
		b.fail(fmt.Errorf("nodeName: take it from the host name: %w: or give --node-name", err))
		return
	}
	b.config.NodeName = name
}

func (b *builder) mistakes() error {
	return errors.Join(append(b.reader.Mistakes(), b.errs...)...)
}

func (b *builder) result() (Config, error) {
	if err := b.mistakes(); err != nil {
		return Config{}, err
	}
	return b.config, nil
}
