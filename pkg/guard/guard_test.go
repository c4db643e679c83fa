package guard

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/internal/nft"
)

func TestMain(m *testing.M) { os.Exit(sandboxtest.Main(m)) }

func TestLinkLocal(t *testing.T) {
	for text, want := range map[string]string{
		"02:00:00:00:00:01": "fe80::ff:fe00:1",
		"f2:d0:54:2d:65:f9": "fe80::f0d0:54ff:fe2d:65f9",
	} {
		mac, err := net.ParseMAC(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := linkLocal(mac); got.String() != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}

// pod is the n-th of a bridge, with both families.
func pod(n byte) Pod {
	return Pod{
		Port: "veth0000000000" + string('0'+n), MAC: net.HardwareAddr{2, 0, 0, 0, 1, n}, Bridge: net.HardwareAddr{2, 0, 0, 0, 0, 0xfe},
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 1, n}), netip.AddrFrom16([16]byte{0: 0xfd, 15: n})},
	}
}

// inHost runs a test in a namespace of its own.
func inHost(t *testing.T, test func(k *Kernel)) {
	t.Helper()
	t.Parallel()
	sandboxtest.Enter(t)
	conn, err := nft.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	test(On(conn))
}

// holds checks that the table is whole and has just what the pods need. Elements that
// the pods of a bridge share may be there without a pod.
func holds(t *testing.T, k *Kernel, pods ...Pod) {
	t.Helper()
	have, _, err := k.conn.Read(Table())
	if err != nil || have == nil {
		t.Fatalf("there is no table: %v", err)
	}
	want := skeleton()
	want.Elements = pod(0).shared()
	for _, p := range pods {
		for _, e := range append(p.elements(), p.shared()...) {
			if !slices.Contains(have.Elements, e) {
				t.Errorf("%s is not there", text(e))
			}
			want.Elements = append(want.Elements, e)
		}
	}
	for _, e := range have.Elements {
		if !slices.Contains(want.Elements, e) {
			t.Errorf("%s is left", text(e))
		}
	}
	want.Elements = have.Elements
	for _, c := range nft.Plan(Table(), want, have).Changes {
		t.Error(c)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestAddAndDelete(t *testing.T) {
	inHost(t, func(k *Kernel) {
		one, two := pod(1), pod(2)
		must(t, k.Delete(one)) // without a table
		must(t, k.DeletePort(one.Port))
		must(t, k.Add(one))
		must(t, k.Add(two))
		must(t, k.Add(two))
		holds(t, k, one, two)
		must(t, k.Delete(one))
		must(t, k.Delete(one))
		holds(t, k, two)
		must(t, k.Add(one))
		must(t, k.DeletePort(one.Port))
		must(t, k.DeletePort("vethother"))
		holds(t, k, two)
		// What is left of an earlier deletion.
		must(t, k.conn.Commit(nft.AnyGeneration, Table().DeleteElements(two.elements()[0])))
		must(t, k.Delete(two))
		holds(t, k)
	})
}

// Every pod of a host may be the first one.
func TestAddMendsTheTable(t *testing.T) {
	inHost(t, func(k *Kernel) {
		one, two := pod(1), pod(2)
		must(t, k.Add(one))
		must(t, k.conn.Commit(nft.AnyGeneration, Table().FlushChain(chainPod)))
		if diffs, err := k.Check(one); len(diffs) == 0 || err != nil {
			t.Errorf("CHECK finds %q, %v", diffs, err)
		}
		if diffs, err := k.Check(two); len(diffs) < len(two.elements()) || err != nil {
			t.Errorf("CHECK finds %q of a pod that isn't there, %v", diffs, err)
		}
		must(t, k.conn.Commit(nft.AnyGeneration, Table().DeleteTable()))
		if diffs, err := k.Check(one); len(diffs) != 1 || err != nil {
			t.Errorf("without a table CHECK finds %q, %v", diffs, err)
		}
		must(t, k.Add(one))
		holds(t, k, one)
		if diffs, err := k.Check(one); len(diffs) > 0 || err != nil {
			t.Errorf("CHECK finds %q, %v", diffs, err)
		}
	})
}

func TestSync(t *testing.T) {
	inHost(t, func(k *Kernel) {
		busy := map[string]bool{}
		sync := func(pods ...Pod) []string {
			t.Helper()
			list := func() (Want, error) {
				return Want{Pods: pods, Leave: func(port string) bool { return busy[port] }}, nil
			}
			changes, err := k.Sync(list)
			must(t, err)
			again, err := k.Sync(list)
			must(t, err)
			if len(again) > 0 {
				t.Errorf("the second time it changed %q", again)
			}
			return changes
		}
		one, two, three := pod(1), pod(2), pod(3)
		if changes := sync(); len(changes) > 0 {
			t.Errorf("without pods it changed %q", changes)
		}
		sync(one, two)
		holds(t, k, one, two)
		moved := one
		moved.MAC = net.HardwareAddr{2, 0, 0, 0, 9, 9}
		for name, damage := range map[string]func() error{
			"nothing":         func() error { return nil },
			"an element less": func() error { return k.conn.Commit(nft.AnyGeneration, Table().DeleteElements(one.elements()[1])) },
			"a pod too much":  func() error { return k.Add(three) },
			"another MAC":     func() error { return k.Add(moved) },
			"no rules":        func() error { return k.conn.Commit(nft.AnyGeneration, Table().FlushChain("prerouting")) },
			"no table":        func() error { return k.conn.Commit(nft.AnyGeneration, Table().DeleteTable()) },
		} {
			must(t, damage())
			if changes := sync(one, two); (len(changes) == 0) != (name == "nothing") {
				t.Errorf("%s: it changed %q", name, changes)
			}
			holds(t, k, one, two)
		}
		busy[two.Port], busy[three.Port] = true, true
		must(t, k.Delete(two)) // a DEL whose record is still there
		must(t, k.Add(three))  // a record that can't be read
		sync(one, two)
		holds(t, k, one, three)
		clear(busy)
		sync(one, two)
		holds(t, k, one, two)
		if _, err := k.Remove(); err != nil {
			t.Error(err)
		}
		if have, _, err := k.conn.Read(Table()); have != nil || err != nil {
			t.Errorf("the table is left, %v", err)
		}
		if changes, err := k.Remove(); len(changes) > 0 || err != nil {
			t.Errorf("removed again: %q, %v", changes, err)
		}
	})
}

// A list that fails changes nothing.
func TestSyncWithoutAList(t *testing.T) {
	inHost(t, func(k *Kernel) {
		must(t, k.Add(pod(1)))
		broken := errors.New("broken")
		if _, err := k.Sync(func() (Want, error) { return Want{}, broken }); !errors.Is(err, broken) {
			t.Error(err)
		}
		holds(t, k, pod(1))
	})
}
