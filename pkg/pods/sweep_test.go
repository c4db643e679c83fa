package pods

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/ipam"
)

func TestMain(m *testing.M) { os.Exit(sandboxtest.Main(m)) }

// attach writes down what an ADD does, and returns the attachment with its lock.
func attach(t *testing.T, h *Host, id string) *attachment.Attachment {
	t.Helper()
	sets, err := ipam.Complete([]ipam.RangeSet{{{Subnet: netip.MustParsePrefix("10.244.1.0/24")}}})
	if err != nil {
		t.Fatal(err)
	}
	a, err := h.store.Lock(attachment.Owner{ContainerID: id, IfName: "eth0"}.Key())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Reserve(sets, nil); err != nil {
		t.Fatal(err)
	}
	record := attachment.Record{ContainerID: id, IfName: "eth0", Pod: "default/" + id, Netns: "/run/netns/none", Bridge: "cni0"}
	if err := a.Write(record); err != nil {
		t.Fatal(err)
	}
	return a
}

// Sync removes the attachment of a pod that is gone. It leaves an attachment
// alone while an ADD or DEL works on it, if its port exists, or if a newer
// version wrote the record. Remove then removes these, too.
func TestSyncAndRemove(t *testing.T) {
	ns := sandboxtest.NewNetns(t)
	dir := t.TempDir()
	links, err := ns.Handle()
	if err != nil {
		t.Fatal(err)
	}
	defer links.Close()
	sandboxtest.Do(t, ns, func() error {
		h, err := Open(dir)
		if err != nil {
			return err
		}
		defer h.Close()
		spec := bridge.Spec{Name: "cni0", MTU: 1500, Gateways: []netip.Prefix{netip.MustParsePrefix("10.244.1.1/24")}}
		if _, err := h.bridge.Sync(spec); err != nil {
			return err
		}
		busy := attach(t, h, "busy")
		for _, id := range []string{"gone", "there", "newer"} {
			if err := attach(t, h, id).Close(); err != nil {
				return err
			}
		}
		port := netlink.NewLinkAttrs()
		port.Name = attachment.Owner{ContainerID: "there", IfName: "eth0"}.Key().HostName()
		if err := links.LinkAdd(&netlink.Veth{LinkAttrs: port, PeerName: "eth0"}); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "attachments", "newer@eth0.json"), []byte(`{"version":99}`), 0o644); err != nil {
			return err
		}
		syncs(t, h, spec, "port "+port.Name+": plugged in, mode set, set up", "removed the lost attachment gone@eth0 with addresses [10.244.1.3]")
		left := []string{"busy@eth0", "newer@eth0", "there@eth0"}
		if got := keys(t, h); !slices.Equal(got, left) {
			t.Errorf("left are %v, want %v", got, left)
		}
		if err := busy.Close(); err != nil {
			return err
		}
		syncs(t, h, spec, "removed the lost attachment busy@eth0 with addresses [10.244.1.2]")
		if err := os.Remove(filepath.Join(dir, "attachments", "newer@eth0.json")); err != nil {
			return err
		}
		syncs(t, h, spec, "freed the addresses [10.244.1.5], which no attachment has")
		syncs(t, h, spec)

		// "there" is the only pod left. One more has lost its record.
		lost := netlink.NewLinkAttrs()
		lost.Name = attachment.Owner{ContainerID: "lost", IfName: "eth0"}.Key().HostName()
		bridge, err := links.LinkByName("cni0")
		if err != nil {
			return err
		}
		lost.MasterIndex = bridge.Attrs().Index
		if err := links.LinkAdd(&netlink.Veth{LinkAttrs: lost, PeerName: "eth1"}); err != nil {
			return err
		}
		want := []string{"default/there", lost.Name}
		slices.Sort(want)
		if names, err := h.Names("cni0"); err != nil || !slices.Equal(names, want) {
			t.Errorf("pods are %v, %v, want %v", names, err, want)
		}
		want = []string{"pod default/there [10.244.1.4]", "port " + lost.Name}
		if removed, err := h.Remove("cni0"); err != nil || !slices.Equal(removed, want) {
			t.Errorf("removed %q, %v, want %q", removed, err, want)
		}
		if names, err := h.Names("cni0"); err != nil || len(names) > 0 {
			t.Errorf("left are %v, %v", names, err)
		}
		if again, err := h.Remove("cni0"); err != nil || len(again) > 0 {
			t.Errorf("the second time it removed %q, %v", again, err)
		}
		return nil
	})
}

func syncs(t *testing.T, h *Host, s bridge.Spec, want ...string) {
	t.Helper()
	changes, err := h.Sync(s)
	if err != nil || fmt.Sprintf("%q", changes) != fmt.Sprintf("%q", want) {
		t.Errorf("changed %q, %v\nwant    %q", changes, err, want)
	}
}

func keys(t *testing.T, h *Host) []string {
	t.Helper()
	entries, err := h.store.List()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, string(e.Key))
	}
	return names
}
