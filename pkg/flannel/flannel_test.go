package flannel

import (
	"os"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { os.Exit(sandboxtest.Main(m)) }

// A host without flannel costs nothing between resyncs. Where something was found, each
// Find sees what is left.
func TestFindLooksAgain(t *testing.T) {
	sandboxtest.Enter(t)
	k, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	found := func(when string, want int) {
		t.Helper()
		if f, err := k.Find(); err != nil || len(f.Devices) != want {
			t.Errorf("%s: found %+v, %v", when, f, err)
		}
	}
	found("at first", 0)
	h, err := netlink.NewHandle()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	device := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "flannel.1"}, VxlanId: 1, Port: 8472}
	if err := h.LinkAdd(device); err != nil {
		t.Fatal(err)
	}
	found("before a resync", 0)
	k.ForceResync()
	found("after a resync", 1)
	if err := h.LinkDel(device); err != nil {
		t.Fatal(err)
	}
	found("after the device was deleted", 0)
}
