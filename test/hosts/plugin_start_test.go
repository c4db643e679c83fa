package hosts

import (
	"path/filepath"
	"testing"
)

// The plugin works without its fast start, too: a new version of Go may refuse that
// (make build FAST_START=0). Both builds do the same to the host, and each removes
// what the other one made.
func TestPluginWithAndWithoutFastStart(t *testing.T) {
	dir := t.TempDir()
	if err := plain.build(dir, "overlay-cni"); err != nil {
		t.Fatal(err)
	}
	p := newPlugin(t, "10.244.1.0/24", "fd00:1::/64")
	p.add(t, "bystander") // so that the bridge is there
	empty := p.snapshot(t)
	builds := []string{filepath.Join(programs, "overlay-cni"), filepath.Join(dir, "overlay-cni")}
	for i, build := range builds {
		p.program = build
		p.add(t, "pod")
		if reserved := reservations(p.snapshot(t)); len(reserved) != 4 {
			t.Errorf("%s: reserved %v", build, reserved)
		}
		p.program = builds[1-i]
		p.del(t, "pod")
		if after := p.snapshot(t); after != empty {
			t.Errorf("%s left something of what %s made:\n%s\nwas\n%s", p.program, build, after, empty)
		}
	}
}
