package hosts

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

// outsideTree lists a folder outside of the run directory, with all contents.
func outsideTree(t *testing.T, dir string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		text := []byte(nil)
		if d.Type().IsRegular() {
			text, err = os.ReadFile(path)
		}
		lines = append(lines, fmt.Sprintf("%s %s %q", path, d.Type(), text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

// The daemon's container can write the run directory, and the plugin is root on the
// host. So whoever has taken over the container must not be able to lead the plugin to
// another file: each call that meets a link fails, names the link, and changes
// nothing behind it.
func TestThePluginFollowsNoLinks(t *testing.T) {
	t.Parallel()
	const key = "pod@eth0.json"
	daemons := func(p *pluginHost) { delete(p.conf, "ipam") }
	for _, tt := range []struct {
		name    string
		path    string // in the run directory, of the link
		target  string // in the folder outside
		hard    bool
		prepare func(p *pluginHost)
		calls   []string // that fail
	}{
		{"the cursor", "cursors/10.244.1.0-24", "file", false, nil, []string{"ADD"}},
		{"the cursor, to nothing", "cursors/10.244.1.0-24", "none", false, nil, []string{"ADD"}},
		{"the cursor, a hard link", "cursors/10.244.1.0-24", "file", true, nil, []string{"ADD"}},
		{"the folder of cursors", "cursors", "dir", false, nil, []string{"ADD"}},
		{"the record", "attachments/" + key, "file", false, nil, []string{"ADD", "DEL", "CHECK", "GC"}},
		{"the record, to nothing", "attachments/" + key, "none", false, nil, []string{"ADD", "DEL", "CHECK", "GC"}},
		{"the record, a hard link", "attachments/" + key, "file", true, nil, []string{"ADD", "DEL", "CHECK", "GC"}},
		{"the folder of records", "attachments", "dir", false, nil, []string{"ADD", "DEL", "CHECK", "GC"}},
		{"the folder of records, to nothing", "attachments", "none", false, nil, []string{"ADD", "DEL", "CHECK", "GC"}},
		{"the folder of reservations", "addresses", "dir", false, nil, []string{"ADD", "GC", "STATUS"}},
		{"the folder of reservations, to nothing", "addresses", "none", false, nil, []string{"ADD", "GC", "STATUS"}},
		{"what the daemon published", nodestate.FileName, "node", false, daemons, []string{"ADD", "STATUS", "CHECK"}},
		{"what the daemon published, a hard link", nodestate.FileName, "node", true, daemons, []string{"ADD", "STATUS", "CHECK"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPlugin(t, "10.244.1.0/24")
			p.conf["waitSeconds"] = 0
			if tt.prepare != nil {
				tt.prepare(p)
			}
			outside := filepath.Join(filepath.Dir(p.host.RunDir()), "outside")
			write := func(name, text string) {
				t.Helper()
				path := filepath.Join(outside, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			write("file", "secret")
			write("dir/other", "other")
			write("node", `{"version":1,"node":"a","subnets":["10.244.1.0/24"],"mtu":1450,"bridge":"cni0","device":"overlay0"}`)
			link, target := filepath.Join(p.host.RunDir(), tt.path), filepath.Join(outside, tt.target)
			if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
				t.Fatal(err)
			}
			plant := os.Symlink
			if tt.hard {
				plant = os.Link
			}
			if err := plant(target, link); err != nil {
				t.Fatal(err)
			}
			before := outsideTree(t, outside)
			netns := sandboxtest.NewNetns(t).Path()
			prev := rawJSON(`{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/x","mac":"02:00:00:00:00:01"}],"ips":[]}`)
			stdin := map[string][]byte{"CHECK": p.with(map[string]any{"prevResult": prev}), "GC": p.valid()}
			for _, command := range []string{"ADD", "CHECK", "STATUS", "GC", "DEL"} {
				_, cniErr := p.run(t, invocation{command: command, netns: netns, stdin: stdin[command]})
				named := cniErr != nil && strings.Contains(cniErr.Msg, link)
				if fails := slices.Contains(tt.calls, command); fails && !named {
					t.Errorf("%s: the error is %v, and does not name %s", command, cniErr, link)
				}
				if _, err := os.Lstat(link); err != nil {
					t.Errorf("%s removed the link: %v", command, err)
				}
				if after := outsideTree(t, outside); after != before {
					t.Errorf("%s changed what is outside:\n%s\nbefore:\n%s", command, after, before)
				}
			}
			// Once the link is gone, all is well.
			if err := os.Remove(link); err != nil {
				t.Fatal(err)
			}
			if tt.prepare != nil {
				return // there is no daemon
			}
			p.add(t, "late")
		})
	}
}

// A run directory that an administrator made a link is used.
func TestTheRunDirectoryMayBeALink(t *testing.T) {
	t.Parallel()
	p := newPlugin(t, "10.244.1.0/24", "fd00:244:1::/64")
	real := p.host.RunDir() + "-real"
	if err := os.Rename(p.host.RunDir(), real); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, p.host.RunDir()); err != nil {
		t.Fatal(err)
	}
	p.add(t, "pod")
	if files, err := os.ReadDir(filepath.Join(real, "addresses")); err != nil || len(files) != 2 {
		t.Errorf("reserved are %v, %v", files, err)
	}
	p.del(t, "pod")
}
