package attachment

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/overlay-cni/overlay-cni/internal/network"
	"github.com/overlay-cni/overlay-cni/pkg/ipam"
)

func setOf(t *testing.T, subnets ...string) []ipam.RangeSet {
	t.Helper()
	var sets []ipam.RangeSet
	for _, s := range subnets {
		sets = append(sets, ipam.RangeSet{{Subnet: netip.MustParsePrefix(s)}})
	}
	sets, err := ipam.Complete(sets)
	if err != nil {
		t.Fatal(err)
	}
	return sets
}

// attach does what an ADD does to the store.
func attach(t *testing.T, s *Store, id string, sets []ipam.RangeSet) ([]netip.Addr, error) {
	t.Helper()
	a, err := s.Lock(Owner{id, "eth0"}.Key())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	addrs, err := a.Reserve(sets, nil)
	if err != nil {
		return nil, errors.Join(err, a.Release())
	}
	return addrs, a.Write(Record{CNINetwork: "test", ContainerID: id, IfName: "eth0"})
}

// detach does what a DEL does to the store.
func detach(t *testing.T, s *Store, id string) {
	t.Helper()
	a, err := s.LockForRemoval(Owner{id, "eth0"}.Key())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := a.Release(); err != nil {
		t.Fatal(err)
	}
}

// files lists what is in the run directory, without the cursors.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.Contains(path, "/cursors/") {
			found = append(found, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestReleaseFindsAddressesWithoutAUsableRecord(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"killed before it was written": func(p string) error { return os.Truncate(p, 0) },
		"cut short":                    func(p string) error { return os.Truncate(p, 40) },
		"garbage":                      func(p string) error { return os.WriteFile(p, []byte("\x00\xff{"), 0o644) },
		"of a newer version": func(p string) error {
			return os.WriteFile(p, []byte(`{"version":99,"containerID":"c","ifName":"eth0"}`), 0o644)
		},
		"without addresses": func(p string) error {
			return os.WriteFile(p, []byte(`{"version":1,"containerID":"c","ifName":"eth0"}`), 0o644)
		},
		"of another container": func(p string) error {
			return os.WriteFile(p, []byte(`{"version":1,"containerID":"d","ifName":"eth0","addresses":["10.244.1.3"]}`), 0o644)
		},
		"removed": os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			s, sets := Open(t.TempDir(), network.Default), setOf(t, "10.244.1.0/29", "fd00:1::/125")
			for _, id := range []string{"c", "other"} {
				if _, err := attach(t, s, id, sets); err != nil {
					t.Fatal(err)
				}
			}
			if err := damage(s.path(Owner{"c", "eth0"}.Key())); err != nil {
				t.Fatal(err)
			}
			detach(t, s, "c")
			want := []string{"addresses/10.244.1.3", "addresses/fd00:1::3", "attachments/other@eth0.json"}
			if left := files(t, s.dir); !slices.Equal(left, want) {
				t.Errorf("left: %v\nwant: %v", left, want)
			}
		})
	}
}

func TestReleaseLeavesWhatAnotherHolds(t *testing.T) {
	s, sets := Open(t.TempDir(), network.Default), setOf(t, "10.244.1.0/29")
	for _, id := range []string{"c", "other"} {
		if _, err := attach(t, s, id, sets); err != nil {
			t.Fatal(err)
		}
	}
	// A record that claims the other's address, as after a mistaken restore.
	forged := `{"version":1,"containerID":"c","ifName":"eth0","addresses":["10.244.1.2","10.244.1.3"]}`
	if err := os.WriteFile(s.path(Owner{"c", "eth0"}.Key()), []byte(forged), 0o644); err != nil {
		t.Fatal(err)
	}
	detach(t, s, "c")
	want := []string{"addresses/10.244.1.3", "attachments/other@eth0.json"}
	if left := files(t, s.dir); !slices.Equal(left, want) {
		t.Errorf("left: %v\nwant: %v", left, want)
	}
}

// An address whose attachment is lost is free only after its use was ended.
func TestFreeLost(t *testing.T) {
	s, sets := Open(t.TempDir(), network.Default), setOf(t, "10.244.1.0/29")
	for _, id := range []string{"c", "kept", "other"} {
		if _, err := attach(t, s, id, sets); err != nil {
			t.Fatal(err)
		}
	}
	keep := map[Key]bool{Owner{"kept", "eth0"}.Key(): true}
	for _, id := range []string{"c", "kept"} {
		if err := os.Remove(s.path(Owner{id, "eth0"}.Key())); err != nil {
			t.Fatal(err)
		}
	}
	all := []string{"addresses/10.244.1.2", "addresses/10.244.1.3", "addresses/10.244.1.4", "attachments/other@eth0.json"}
	for _, tc := range []struct {
		unused bool
		err    error
		want   []string
	}{
		{false, nil, all}, // a pod has it
		{false, errors.New("can't tell"), all},
		{true, nil, all[1:]},
	} {
		var asked []netip.Addr
		freed, err := s.FreeLost(func(k Key) bool { return keep[k] }, func(k Key, a netip.Addr) (bool, error) {
			asked = append(asked, a)
			return tc.unused && k == Owner{"c", "eth0"}.Key(), tc.err
		})
		if !errors.Is(err, tc.err) || fmt.Sprint(asked) != "[10.244.1.2]" || tc.unused != (len(freed) == 1) {
			t.Errorf("freed %v after asking for %v, %v", freed, asked, err)
		}
		if left := files(t, s.dir); !slices.Equal(left, tc.want) {
			t.Errorf("left: %v\nwant: %v", left, tc.want)
		}
	}
}

func TestNamesStayInTheDirectory(t *testing.T) {
	dir := t.TempDir()
	s, sets := Open(filepath.Join(dir, "run"), network.Default), setOf(t, "10.244.0.0/16")
	for _, o := range []Owner{
		{strings.Repeat("a", 200), "eth0"}, {strings.Repeat("a", 201), "eth0"}, {strings.Repeat("a", 202), "eth0"},
		{"../../etc/passwd", "eth0"}, {"..", "eth0"}, {".", "eth0"}, {"a\nb", "eth0"}, {"a@b", "c"}, {"a", "b@c"},
		{"x", "../../../x"}, {"x", strings.Repeat("i", 15)}, {"x", "\n"},
	} {
		a, err := s.Lock(o.Key())
		if err != nil {
			t.Fatalf("%q: %v", o, err)
		}
		if !a.Fresh() {
			t.Errorf("%q shares its file with another", o)
		}
		if _, err := a.Reserve(sets, nil); err != nil {
			t.Fatal(err)
		}
		if err := a.Write(Record{ContainerID: o.ContainerID, IfName: o.IfName}); err != nil {
			t.Fatal(err)
		}
		if name := o.Key().HostName(); len(name) != 15 {
			t.Errorf("%q: host name %s has %d bytes", o, name, len(name))
		}
		a.Close()
	}
	for _, path := range files(t, dir) {
		if !strings.HasPrefix(path, "run/attachments/") && !strings.HasPrefix(path, "run/addresses/") {
			t.Errorf("a file outside: %s", path)
		}
	}
	if records, err := s.List(); err != nil || len(records) != 12 {
		t.Errorf("%d records, %v, want all 12", len(records), err)
	}
}

// TestParallel reserves and frees from many workers at once: no two attachments
// may have one address. Each worker keeps an attachment until it has the next
// one, so that two attachments with one address would exist at the same time.
func TestParallel(t *testing.T) {
	s, sets := Open(t.TempDir(), network.Default), setOf(t, "10.244.1.0/26", "fd00:1::/122")
	var holders sync.Map // who has an address, from the end of Reserve to the beginning of Release
	var wg sync.WaitGroup
	for worker := range 16 {
		wg.Go(func() {
			end := func() {} // the attachment before
			for i := range 100 {
				id := fmt.Sprintf("c%d-%d", worker, i%2)
				addrs, err := attach(t, s, id, sets)
				if err != nil {
					t.Error(err)
					return
				}
				for _, a := range addrs {
					if other, taken := holders.LoadOrStore(a, id); taken {
						t.Errorf("%s has %s, which %s got too", other, a, id)
					}
				}
				end()
				end = func() {
					for _, a := range addrs {
						holders.Delete(a)
					}
					detach(t, s, id)
				}
			}
			end()
		})
	}
	wg.Wait()
	if left := files(t, s.dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestSameAttachmentIsWorkedOnByOneAtATime has all workers use one owner.
func TestSameAttachmentIsWorkedOnByOneAtATime(t *testing.T) {
	s, sets := Open(t.TempDir(), network.Default), setOf(t, "10.244.1.0/24")
	var inside sync.Mutex
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				a, err := s.Lock(Owner{"c", "eth0"}.Key())
				if err != nil {
					t.Error(err)
					return
				}
				if !inside.TryLock() {
					t.Error("two work on one attachment")
					a.Close()
					return
				}
				if _, found, err := a.Record(); found || err != nil {
					t.Errorf("the file of a released attachment was handed on (%v)", err)
				}
				if _, err := a.Reserve(sets, nil); err != nil {
					t.Error(err)
				}
				if err := a.Write(Record{ContainerID: "c", IfName: "eth0"}); err != nil {
					t.Error(err)
				}
				inside.Unlock() // once it is released, the next one may begin
				if err := a.Release(); err != nil {
					t.Error(err)
				}
				a.Close()
			}
		})
	}
	wg.Wait()
	if left := files(t, s.dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRecordIsReadAsItWasWritten(t *testing.T) {
	want := Record{
		Version: 1, Network: network.Default, CNINetwork: "net \"x\"", ContainerID: "c", IfName: "eth0", Pod: "ns/name", Netns: "/run/netns/\n",
		HostName: "veth0", MAC: "02:00:00:00:00:01", MTU: 1450, Bridge: "cni0",
		Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("fd00::2")},
		HostPorts: []byte(`[{"hostPort":80}]`), Guarded: true, Unguardable: true,
	}
	text, err := want.text()
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseRecord(text)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
	}
	for field := range reflect.ValueOf(want).NumField() {
		if reflect.ValueOf(want).Field(field).IsZero() {
			t.Errorf("field %d is not tested", field)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"containerID":"c","ifName":"eth0","addresses":["10.244.1.2","fd00::2"]}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte("\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRecord(data)
		if err == nil && (r.ContainerID == "" || r.Version != recordVersion) {
			t.Errorf("accepted %q", data)
		}
		if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) && (len(data) > 0 || !errors.Is(err, ErrEmpty)) {
			t.Errorf("%v is neither damaged nor newer", err)
		}
	})
}

// A host is upgraded while its pods run: what the previous release recorded
// belongs to the default network.
func TestRecordOfThePreviousRelease(t *testing.T) {
	const old = `{"version":1,"network":"net","containerID":"c","ifName":"eth0","pod":"ns/name","netns":"/run/netns/x","hostName":"veth0",` +
		`"mac":"02:00:00:00:00:01","mtu":1450,"bridge":"cni0","addresses":["10.244.1.2"],"hostPorts":[{"hostPort":80}]}` + "\n"
	dir := t.TempDir()
	addr := netip.MustParseAddr("10.244.1.2")
	key := Owner{"c", "eth0"}.Key()
	err := errors.Join(
		os.Mkdir(filepath.Join(dir, "addresses"), 0o755), os.Mkdir(filepath.Join(dir, "attachments"), 0o755),
		os.WriteFile(filepath.Join(dir, "attachments", "c@eth0.json"), []byte(old), 0o644),
		os.Symlink("../attachments/c@eth0.json", filepath.Join(dir, "addresses", addr.String())))
	if err != nil {
		t.Fatal(err)
	}
	s := Open(dir, network.Default)
	entries, err := s.List()
	want := Record{
		Version: 1, Network: network.Default, CNINetwork: "net", ContainerID: "c", IfName: "eth0", Pod: "ns/name", Netns: "/run/netns/x",
		HostName: "veth0", MAC: "02:00:00:00:00:01", MTU: 1450, Bridge: "cni0", Addresses: []netip.Addr{addr}, HostPorts: []byte(`[{"hostPort":80}]`),
	}
	if err != nil || len(entries) != 1 || entries[0].Err != nil || !reflect.DeepEqual(entries[0].Record, want) {
		t.Errorf("got %+v, %v\nwant %+v", entries, err, want)
	}
	if !s.Has(key, addr) || s.Holder(addr) != "pod ns/name" {
		t.Errorf("%s is reserved by %s", addr, s.Holder(addr))
	}
	detach(t, s, "c")
	if left := files(t, dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Networks have reservations of their own: pods of two networks may have the same
// address.
func TestNetworksAreApart(t *testing.T) {
	dir, sets := t.TempDir(), setOf(t, "10.244.1.0/29")
	for _, n := range []network.Name{network.Default, "blue"} {
		addrs, err := attach(t, Open(dir, n), "c", sets)
		if err != nil || fmt.Sprint(addrs) != "[10.244.1.2]" {
			t.Errorf("%s: %v, %v", n, addrs, err)
		}
	}
	theirs, err := os.ReadFile(Open(dir, "blue").path(Owner{"c", "eth0"}.Key()))
	if err != nil {
		t.Fatal(err)
	}
	s := Open(dir, network.Default)
	if err := os.WriteFile(s.path(Owner{"c", "eth0"}.Key()), theirs, 0o644); err != nil {
		t.Fatal(err)
	}
	if entries, err := s.List(); err != nil || len(entries) != 1 || !errors.Is(entries[0].Err, ErrDamaged) {
		t.Errorf("another network's record was read as %+v, %v", entries, err)
	}
}
