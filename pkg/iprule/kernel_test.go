package iprule

import (
	"os"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { os.Exit(sandboxtest.Main(m)) }

// What the kernel lists is what was planned, and an uninstall removes it.
func TestSyncAndRemove(t *testing.T) {
	ns := sandboxtest.NewNetns(t)
	sandboxtest.Do(t, ns, func() error {
		k, err := Open()
		if err != nil {
			return err
		}
		defer func() { _ = k.Close() }()
		h, err := ns.Handle()
		if err != nil {
			return err
		}
		defer h.Close()
		want := State{Own: prefixes("10.244.1.0/24", "fd44::/64"), Subnets: prefixes("10.244.1.0/24", "10.244.9.0/24", "fd44::/64")}
		if changes, err := k.Sync(want); len(changes) > 0 || err != nil {
			t.Errorf("without rules of others: changed %q, %v", changes, err)
		}
		for _, f := range family.All() {
			r := netlink.NewRule()
			r.Family, r.Table, r.IifName = int(f), 7, "cni0"
			if err := h.RuleAdd(r); err != nil {
				return err
			}
		}
		if changes, err := k.Sync(want); len(changes) != 3 || err != nil {
			t.Errorf("changed %q, %v", changes, err)
		}
		if changes, err := k.Sync(want); len(changes) > 0 || err != nil {
			t.Errorf("the second time it changed %q, %v", changes, err)
		}
		want.Subnets = prefixes("10.244.1.0/24", "fd44::/64")
		if changes, err := k.Sync(want); len(changes) != 1 || err != nil {
			t.Errorf("a host left: changed %q, %v", changes, err)
		}
		if removed, err := k.Remove(); len(removed) != 2 || err != nil {
			t.Errorf("removed %q, %v", removed, err)
		}
		if again, err := k.Remove(); len(again) > 0 || err != nil {
			t.Errorf("the second time it removed %q, %v", again, err)
		}
		return nil
	})
}
