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

// join puts flags over the file, the file over what is shared, and that over
// the defaults.
func (l *Loader) join(shared Shared, file []byte) (Config, error) {
	b := newBuilder()
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
	return b.result()
}

// flagValue is the text that a flag was given.
type flagValue struct {
	setting setting
	texts   []string
	given   bool
}

// String is what pflag asks of every flag; the default it shows is set beside.
func (v *flagValue) String() string { return strings.Join(v.texts, ",") }

// Type is the word for the value in the help text. "bool" makes pflag print
// none.
func (v *flagValue) Type() string {
	if v.setting.kind == kindBool {
		return "bool"
	}
	return v.setting.kind
}

// Set takes one occurrence of the flag. Those of a list add up, each may hold
// several items with commas in between, and an empty one makes an empty list.
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

// builder is a configuration in the making: a value of a later source replaces
// that of an earlier one.
type builder struct {
	config Config
	reader *strictyaml.Reader // the document that is read, and its mistakes
	errs   []error            // mistakes elsewhere
	// blame records a mistake about a setting where its value stands. It has
	// an entry for each setting that has a value other than the default.
	blame map[string]func(error)
	// refused are the settings with a value that was not taken, so that
	// config holds something else.
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

// add takes one value and reports it where it stands if it is refused.
func (b *builder) add(s setting, text string, blame func(error)) {
	if err := s.add(&b.config, text); err != nil {
		blame(err)
		b.refused[s.key] = true
	}
}

// begin says where the value of a setting stands from now on.
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

// shared takes only what can be the same on all hosts.
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
	mapping := strictyaml.Mapping{Node: s.node, Path: s.path, Keys: s.names(), Meant: s.keys, Removed: removedSettings()}
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

// cross checks what no setting can know alone: one name can't be that of two
// devices.
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

// crossFamily checks that the underlay's address is of the family, where it is
// given as one.
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

// clash blames the second setting if it has a value of its own, else the
// first: two defaults never clash.
func (b *builder) clash(first, second, name string) {
	blame, ok := b.blame[second]
	if !ok {
		first, second = second, first
		blame = b.blame[second]
	}
	blame(fmt.Errorf("%s: %s names the same device: they must differ", quote(name), first))
}

// resolveName asks for the host name where no other name is given.
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
