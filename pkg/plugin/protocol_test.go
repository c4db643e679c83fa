package plugin

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	cniversion "github.com/containernetworking/cni/pkg/version"
)

// environment is what a runtime sets for every command, with changes to it.
func environment(command string, change map[string]string) map[string]string {
	env := map[string]string{
		"CNI_COMMAND": command, "CNI_CONTAINERID": "pod", "CNI_NETNS": "/run/netns/pod", "CNI_IFNAME": "eth0", "CNI_PATH": "/opt/cni/bin", "CNI_ARGS": "",
	}
	for k, v := range change {
		env[k] = v
	}
	return env
}

// accepted is the code of a call that came as far as the command.
const accepted = 999

// oursSays returns the error code with which our plugin refuses a call.
func oursSays(env map[string]string, stdin string) uint {
	p := Plugin{Getenv: func(key string) string { return env[key] }, In: strings.NewReader(stdin)}
	c, ok := commandOf(env["CNI_COMMAND"])
	if !ok {
		return codeOf(p.run())
	}
	if _, err := p.invocation(c); err != nil {
		return codeOf(err)
	}
	return accepted
}

// skeletonSays is the same of the library's skeleton.
func skeletonSays(t *testing.T, env map[string]string, stdin string) uint {
	for k, v := range env {
		t.Setenv(k, v)
	}
	path := filepath.Join(t.TempDir(), "stdin")
	if err := os.WriteFile(path, []byte(stdin), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	before := os.Stdin
	defer func() { os.Stdin = before }()
	os.Stdin = file
	accept := func(*skel.CmdArgs) error { return types.NewError(accepted, "", "") }
	funcs := skel.CNIFuncs{Add: accept, Del: accept, Check: accept, GC: accept, Status: accept}
	if err := skel.PluginMainFuncsWithError(funcs, cniversion.PluginSupports(versions...), ""); err != nil {
		return err.Code
	}
	return 0
}

func codeOf(err error) uint {
	var known *types.Error
	if errors.As(err, &known) {
		return known.Code
	}
	return 0
}

// TestProtocolIsTheSkeletons compares our plugin with the library's skeleton: it
// runs every command with each input that either of them checks made wrong.
func TestProtocolIsTheSkeletons(t *testing.T) {
	const good = `{"cniVersion":"1.1.0","name":"net","type":"overlay-cni"}`
	type call struct {
		change map[string]string
		stdin  string
	}
	calls := []call{{nil, good}}
	for _, key := range []string{"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH", "CNI_ARGS"} {
		calls = append(calls, call{map[string]string{key: ""}, good})
	}
	for _, id := range []string{"-a", "a/b", "../a", "a b", "a\n", "ä", ".", "0_.-", strings.Repeat("a", 300)} {
		calls = append(calls, call{map[string]string{"CNI_CONTAINERID": id}, good})
	}
	for _, name := range []string{".", "..", "a/b", "a:b", "a b", "a\t", "sixteen-letters-", "fifteen-letters", "\u00a0"} {
		calls = append(calls, call{map[string]string{"CNI_IFNAME": name}, good})
	}
	for _, v := range []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0", "1.2.0", ""} {
		calls = append(calls, call{nil, strings.ReplaceAll(good, "1.1.0", v)})
	}
	for _, stdin := range []string{
		"", "{", "[]", "{}", `{"cniVersion":"1.1.0"}`, `{"name":"net"}`, `{"name":7,"cniVersion":"1.1.0"}`, `{"name":"net","cniVersion":1}`,
		`{"name":"a b","cniVersion":"1.1.0"}`, `{"name":"-","cniVersion":"1.1.0"}`, `{"NAME":"net","CNIVERSION":"1.1.0"}`, `{"name":"n\u0065t","cniVersion":"1.1.0"}`,
	} {
		calls = append(calls, call{nil, stdin})
	}
	for _, command := range []string{"ADD", "DEL", "CHECK", "GC", "STATUS", "PLAY"} {
		for _, c := range calls {
			if command == "PLAY" && c.stdin != good {
				continue // the skeleton reads the configuration first
			}
			env := environment(command, c.change)
			ours, theirs := oursSays(env, c.stdin), skeletonSays(t, env, c.stdin)
			if ours != theirs && !laxer(command, c.stdin) {
				t.Errorf("%s %q %q: code %d, the skeleton's is %d", command, c.change, c.stdin, ours, theirs)
			}
		}
	}
}

// laxer tells whether the call is a removal with a key of the wrong type, for
// which our plugin counts the key as absent.
func laxer(command, stdin string) bool {
	return (command == "DEL" || command == "GC") && slices.Contains([]string{"[]", `{"name":7,"cniVersion":"1.1.0"}`, `{"name":"net","cniVersion":1}`}, stdin)
}

func TestWithoutACommandItSaysWhatItIs(t *testing.T) {
	var out, errs strings.Builder
	status := Plugin{Getenv: func(string) string { return "" }, Out: &out, Err: &errs, About: "overlay-cni 1"}.Run()
	if want := "overlay-cni 1\nCNI protocol versions supported: 0.3.1, 0.4.0, 1.0.0, 1.1.0\n"; status != 0 || out.Len() > 0 || errs.String() != want {
		t.Errorf("status %d, printed %q and %q", status, &out, &errs)
	}
}
