package ipam

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
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

// add does what an ADD does to the reservations: all or nothing.
func add(r *Reservations, id string, sets []RangeSet) ([]netip.Addr, error) {
	addrs, err := r.Reserve(Owner(id), sets, nil)
	if err != nil {
		for _, a := range addrs {
			err = errors.Join(err, r.Release(a, Owner(id)))
		}
		return nil, err
	}
	return addrs, nil
}

func del(t *testing.T, r *Reservations, id string) {
	t.Helper()
	held, err := r.OwnedBy(Owner(id))
	for _, a := range held {
		err = errors.Join(err, r.Release(a, Owner(id)))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func reserved(t *testing.T, r *Reservations) map[netip.Addr]bool {
	t.Helper()
	all, err := r.All()
	if err != nil {
		t.Fatal(err)
	}
	list := map[netip.Addr]bool{}
	for a := range all {
		list[a] = true
	}
	return list
}

func TestEveryAddressIsGivenOnceThenNoneIsLeft(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			s, sets := Open(t.TempDir()), setOf(t, f.subnet)
			var got []string
			for n := range sets[0].size() {
				addrs, err := add(s, fmt.Sprint("c", n), sets)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, addrs[0].String())
			}
			if got[0] != f.first || got[len(got)-1] != f.last || len(slices.Compact(slices.Sorted(slices.Values(got)))) != len(got) {
				t.Errorf("got %v, want each from %s to %s once", got, f.first, f.last)
			}
			_, err := add(s, "late", sets)
			want := fmt.Sprintf("no address left in %s: %d of %d are in use (\"ls -l %s/addresses\" shows by whom)", f.subnet, len(got), len(got), s.dir)
			if !errors.Is(err, ErrExhausted) || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("got  %v\nwant %s", err, want)
			}
			if left := reserved(t, s); len(left) != len(got) {
				t.Errorf("the refused one left something: %v", left)
			}
			del(t, s, "c1")
			if again, err := add(s, "late", sets); err != nil || again[0].String() != got[1] {
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
				addrs, err := add(s, "c", sets)
				if err != nil {
					t.Fatal(err)
				}
				del(t, s, "c")
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
		addrs, err := add(s, fmt.Sprint("c", n), sets)
		if err != nil || len(addrs) != 2 || !addrs[0].Is4() || !addrs[1].Is6() {
			t.Fatalf("got %v, %v", addrs, err)
		}
	}
	before := reserved(t, s)
	if _, err := add(s, "late", sets); !errors.Is(err, ErrExhausted) {
		t.Fatalf("got %v, want no IPv6 address left", err)
	}
	if after := reserved(t, s); !maps.Equal(before, after) {
		t.Errorf("the IPv4 address leaked: %v", after)
	}
}

func TestCursorIsOnlyAHint(t *testing.T) {
	for _, content := range []string{"", "garbage", "192.0.2.1\n", "fd00::1\n", strings.Repeat("9", 4096)} {
		s, sets := Open(t.TempDir()), setOf(t, "10.244.1.0/29")
		if _, err := add(s, "first", sets); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(s.dir, cursorsDir, "10.244.1.0-29")
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		addrs, err := add(s, "second", sets)
		if err != nil || addrs[0].String() != "10.244.1.3" {
			t.Errorf("cursor %.20q: got %v, %v, want 10.244.1.3", content, addrs, err)
		}
	}
}

// TestNoneIsLeftForManyAtOnce: a refused owner is told that all addresses are in
// use, even if others took the last ones during its search.
func TestNoneIsLeftForManyAtOnce(t *testing.T) {
	set := setOf(t, "10.244.1.0/28")[0]
	const want = "no address left in 10.244.1.0/28: 13 of 13 are in use ("
	for range 100 {
		s, err := Open(t.TempDir()).open()
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for worker := range 64 {
			wg.Go(func() {
				_, err := s.search(set, set.next(netip.Addr{}), Owner(fmt.Sprint("c", worker)))
				if err != nil && !strings.HasPrefix(err.Error(), want) {
					t.Errorf("got  %v\nwant %s", err, want)
				}
			})
		}
		wg.Wait()
		s.Close()
	}
}
