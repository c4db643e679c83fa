package plugin

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// Plugin is one run of the program. It speaks the protocol of the specification
// (section 2) as the library's skeleton does, but faster: the skeleton reads the
// configuration three times, compares network namespaces by /proc, and compiles
// regular expressions at every start.
type Plugin struct {
	Getenv   func(key string) string
	In       io.Reader
	Out, Err io.Writer
	// About is printed for people who run the program by hand.
	About string
}

// versions are the versions of the specification that the plugin speaks, oldest
// first.
var versions = []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}

// command is a command of the specification.
type command struct {
	run func(Plugin, *invocation) error
	// parse reads the configuration; see accept for what it returns.
	parse func(data []byte) (*conf, error)
	since string   // the first version of the specification with the command
	needs []string // variables that have to be set
}

// invocation is what the runtime says: in the environment, and on stdin.
type invocation struct {
	containerID, netns, ifName, args string
	conf                             *conf
}

func commandOf(name string) (command, bool) {
	oldest := versions[0]
	switch name {
	case "ADD":
		return command{Plugin.add, parseConf, oldest, []string{"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"}}, true
	case "DEL":
		return command{Plugin.del, parseForRemoval, oldest, []string{"CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"}}, true
	case "CHECK":
		return command{Plugin.check, parseConf, "0.4.0", []string{"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"}}, true
	case "GC":
		return command{Plugin.gc, parseForRemoval, "1.1.0", []string{"CNI_PATH"}}, true
	case "STATUS":
		return command{Plugin.status, parseConf, "1.1.0", []string{"CNI_PATH"}}, true
	}
	return command{}, false
}

// Run carries out the command in the environment and returns the exit status. It
// writes the result, or the error in the specification's form, to Out.
func (p Plugin) Run() int {
	err := p.run()
	if err == nil {
		return 0
	}
	text, _ := json.MarshalIndent(toCNI(err), "", "    ") // of strings and a number
	_, _ = p.Out.Write(append(text, '\n'))
	return 1
}

func (p Plugin) run() error {
	name := p.Getenv("CNI_COMMAND")
	switch name {
	case "":
		_, err := fmt.Fprintf(p.Err, "%s\nCNI protocol versions supported: %s\n", p.About, strings.Join(versions, ", "))
		return err
	case "VERSION":
		return p.version()
	}
	c, ok := commandOf(name)
	if !ok {
		return invalidEnv("unknown CNI_COMMAND %q: it can be ADD, DEL, CHECK, GC, STATUS or VERSION", name)
	}
	in, err := p.invocation(c)
	if err != nil {
		return err
	}
	return c.run(p, in)
}

// version prints the versions that the plugin speaks.
func (p Plugin) version() error {
	return json.NewEncoder(p.Out).Encode(struct {
		CNIVersion string   `json:"cniVersion"`
		Supported  []string `json:"supportedVersions"`
	}{versions[len(versions)-1], versions})
}

func (p Plugin) invocation(c command) (*invocation, error) {
	var missing []string
	for _, key := range c.needs {
		if p.Getenv(key) == "" {
			missing = append(missing, key)
		}
	}
	if len(missing) > 0 {
		return nil, invalidEnv("required env variables [%s] missing", strings.Join(missing, ","))
	}
	in := &invocation{
		containerID: p.Getenv("CNI_CONTAINERID"), netns: p.Getenv("CNI_NETNS"), ifName: p.Getenv("CNI_IFNAME"), args: p.Getenv("CNI_ARGS"),
	}
	if slices.Contains(c.needs, "CNI_CONTAINERID") && !isName(in.containerID) {
		return nil, invalidEnv("CNI_CONTAINERID %q is not a valid containerID: use letters, digits, and, except at the start, '.', '_' and '-'", in.containerID)
	}
	if slices.Contains(c.needs, "CNI_IFNAME") && !isLinkName(in.ifName) {
		return nil, invalidEnv("CNI_IFNAME %q can't be an interface name: %s", in.ifName, linkNameRule)
	}
	data, err := io.ReadAll(p.In)
	if err != nil {
		return nil, types.NewError(types.ErrIOFailure, fmt.Sprintf("the CNI configuration can't be read from stdin: %s", err), "")
	}
	in.conf, err = c.accept(c.parse(data))
	return in, err
}

// accept checks what a parse function returned: a configuration that is never
// nil, and an error. accept reports an unknown version before the error, because
// the version may be the cause.
func (c command) accept(conf *conf, err error) (*conf, error) {
	if err != nil && (conf.Name == "" || conf.CNIVersion == "") {
		return nil, err // may explain why they are empty
	}
	if conf.Name == "" {
		return nil, invalid("missing network name: the configuration needs the key \"name\"")
	}
	if !isName(conf.Name) {
		return nil, invalid("invalid characters found in network name %q: use letters, digits, and, except at the start, '.', '_' and '-'", conf.Name)
	}
	if conf.CNIVersion == "" {
		conf.CNIVersion = "0.1.0" // the specification's default
	}
	place := slices.Index(versions, conf.CNIVersion)
	if place < 0 {
		return nil, types.NewError(types.ErrIncompatibleCNIVersion, "incompatible CNI versions",
			fmt.Sprintf("config is %q, plugin supports %q", conf.CNIVersion, versions))
	}
	if place < slices.Index(versions, c.since) {
		return nil, types.NewError(types.ErrIncompatibleCNIVersion, "the command came with CNI version "+c.since,
			fmt.Sprintf("config is %q", conf.CNIVersion))
	}
	return conf, err
}

func invalidEnv(format string, args ...any) error {
	return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf(format, args...), "")
}

// isName is the specification's rule for container ids and network names.
func isName(text string) bool {
	for i, r := range text {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
		case i > 0 && (r == '.' || r == '_' || r == '-'):
		default:
			return false
		}
	}
	return text != ""
}
