package ipam

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
)

// families are the subnets that the tests run with: 5 addresses for pods each.
var families = []struct{ name, subnet, first, last string }{
	{"IPv4", "10.244.1.0/29", "10.244.1.2", "10.244.1.6"},
	{"IPv6", "fd00:1::/125", "fd00:1::2", "fd00:1::7"},
}

func setOf(t *testing.T, subnets ...string) []RangeSet {
	t.Helper()
	var sets []RangeSet
	for _, s := range subnets {
		sets = append(sets, RangeSet{{Subnet: netip.MustParsePrefix(s)}})
	}
	sets, err := Complete(sets)
	if err != nil {
		t.Fatal(err)
	}
	return sets
}

// attach does what an ADD does to the store.
func attach(t *testing.T, s *Store, id string, sets []RangeSet) ([]netip.Addr, error) {
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
	return addrs, a.Write(Record{Network: "test", ContainerID: id, IfName: "eth0"})
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
		if err == nil && !d.IsDir() && !strings.Contains(path, "/"+cursorsDir+"/") {
			found = append(found, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestEveryAddressIsGivenOnceThenNoneIsLeft(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			s, sets := Open(t.TempDir()), setOf(t, f.subnet)
			var got []string
			for n := range sets[0].size() {
				addrs, err := attach(t, s, fmt.Sprint("c", n), sets)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, addrs[0].String())
			}
			if got[0] != f.first || got[len(got)-1] != f.last || len(slices.Compact(slices.Sorted(slices.Values(got)))) != len(got) {
				t.Errorf("got %v, want each from %s to %s once", got, f.first, f.last)
			}
			_, err := attach(t, s, "late", sets)
			want := fmt.Sprintf("no address left in %s: %d of %d are in use, %s/addresses lists by whom", f.subnet, len(got), len(got), s.dir)
			if !errors.Is(err, ErrExhausted) || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("got  %v\nwant %s", err, want)
			}
			if left := files(t, s.dir); len(left) != 2*len(got) {
				t.Errorf("the refused one left something: %v", left)
			}
			detach(t, s, "c1")
			if again, err := attach(t, s, "late", sets); err != nil || again[0].String() != got[1] {
				t.Errorf("after c1 went: got %v, %v, want %s", again, err, got[1])
			}
		})
	}
}

func TestFreedAddressIsTheLastToBeGivenAgain(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			s, sets := Open(t.TempDir()), setOf(t, f.subnet)
			var got []netip.Addr
			for n := range 2 * sets[0].size() {
				addrs, err := attach(t, s, "c", sets)
				if err != nil {
					t.Fatal(err)
				}
				detach(t, s, "c")
				if seen := slices.Index(got, addrs[0]); seen >= 0 && n < sets[0].size() {
					t.Fatalf("%s was given again after %d others", addrs[0], len(got)-seen-1)
				}
				got = append(got, addrs[0])
			}
			half := len(got) / 2
			if !slices.Equal(got[:half], got[half:]) {
				t.Errorf("the second round %v is not the first %v", got[half:], got[:half])
			}
		})
	}
}

func TestDualStackGivesOneOfEachOrNone(t *testing.T) {
	s := Open(t.TempDir())
	sets := setOf(t, "10.244.1.0/29", "fd00:1::/126")
	for n := range 2 {
		addrs, err := attach(t, s, fmt.Sprint("c", n), sets)
		if err != nil || len(addrs) != 2 || !addrs[0].Is4() || !addrs[1].Is6() {
			t.Fatalf("got %v, %v", addrs, err)
		}
	}
	before := files(t, s.dir)
	if _, err := attach(t, s, "late", sets); !errors.Is(err, ErrExhausted) {
		t.Fatalf("got %v, want no IPv6 address left", err)
	}
	if after := files(t, s.dir); !slices.Equal(before, after) {
		t.Errorf("the IPv4 address leaked: %v", after)
	}
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
			s, sets := Open(t.TempDir()), setOf(t, "10.244.1.0/29", "fd00:1::/125")
			for _, id := range []string{"c", "other"} {
				if _, err := attach(t, s, id, sets); err != nil {
					t.Fatal(err)
				}
			}
			if err := damage(s.attachmentPath(Owner{"c", "eth0"}.Key())); err != nil {
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
	s, sets := Open(t.TempDir()), setOf(t, "10.244.1.0/29")
	for _, id := range []string{"c", "other"} {
		if _, err := attach(t, s, id, sets); err != nil {
			t.Fatal(err)
		}
	}
	// A record that claims the other's address, as after a mistaken restore.
	forged := `{"version":1,"containerID":"c","ifName":"eth0","addresses":["10.244.1.2","10.244.1.3"]}`
	if err := os.WriteFile(s.attachmentPath(Owner{"c", "eth0"}.Key()), []byte(forged), 0o644); err != nil {
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
	s, sets := Open(t.TempDir()), setOf(t, "10.244.1.0/29")
	for _, id := range []string{"c", "kept", "other"} {
		if _, err := attach(t, s, id, sets); err != nil {
			t.Fatal(err)
		}
	}
	keep := map[Key]bool{Owner{"kept", "eth0"}.Key(): true}
	for _, id := range []string{"c", "kept"} {
		if err := os.Remove(s.attachmentPath(Owner{id, "eth0"}.Key())); err != nil {
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
		freed, err := s.FreeLost(keep, func(k Key, a netip.Addr) (bool, error) {
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

func TestCursorIsOnlyAHint(t *testing.T) {
	for _, content := range []string{"", "garbage", "192.0.2.1\n", "fd00::1\n", strings.Repeat("9", 4096)} {
		s, sets := Open(t.TempDir()), setOf(t, "10.244.1.0/29")
		if _, err := attach(t, s, "first", sets); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(s.dir, cursorsDir, "10.244.1.0-29")
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		addrs, err := attach(t, s, "second", sets)
		if err != nil || addrs[0].String() != "10.244.1.3" {
			t.Errorf("cursor %.20q: got %v, %v, want 10.244.1.3", content, addrs, err)
		}
	}
}

func TestNamesStayInTheDirectory(t *testing.T) {
	dir := t.TempDir()
	s, sets := Open(filepath.Join(dir, "run")), setOf(t, "10.244.0.0/16")
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

// TestParallel lets many take and free at once: no address may be with two. Each
// attachment stays until the next one of its worker is there, so that two which
// were given one address meet.
func TestParallel(t *testing.T) {
	s, sets := Open(t.TempDir()), setOf(t, "10.244.1.0/26", "fd00:1::/122")
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

// TestNoneIsLeftForManyAtOnce: who is refused is told that all are in use, also
// where others took the last ones while it searched.
func TestNoneIsLeftForManyAtOnce(t *testing.T) {
	set := setOf(t, "10.244.1.0/28")[0]
	const want = "no address left in 10.244.1.0/28: 13 of 13 are in use, "
	for range 100 {
		s := Open(t.TempDir())
		var wg sync.WaitGroup
		for worker := range 64 {
			wg.Go(func() {
				_, err := s.search(set, set.next(netip.Addr{}), Owner{fmt.Sprint("c", worker), "eth0"}.Key())
				if err != nil && !strings.HasPrefix(err.Error(), want) {
					t.Errorf("got  %v\nwant %s", err, want)
				}
			})
		}
		wg.Wait()
	}
}

// TestSameAttachmentIsWorkedOnByOneAtATime has all workers use one owner.
func TestSameAttachmentIsWorkedOnByOneAtATime(t *testing.T) {
	s, sets := Open(t.TempDir()), setOf(t, "10.244.1.0/24")
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
		Version: 1, Network: "net \"x\"", ContainerID: "c", IfName: "eth0", Pod: "ns/name", Netns: "/run/netns/\n",
		HostName: "veth0", MAC: "02:00:00:00:00:01", MTU: 1450, Bridge: "cni0",
		Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("fd00::2")},
		HostPorts: []byte(`[{"hostPort":80}]`),
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
		if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
			t.Errorf("%v is neither damaged nor newer", err)
		}
	})
}
