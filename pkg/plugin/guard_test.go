package plugin

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/overlay-cni/overlay-cni/internal/network"
	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/guard"
	"github.com/overlay-cni/overlay-cni/pkg/ipam"
)

// CHECK and the daemon take from the record that a pod isn't guarded because the kernel
// couldn't.
func TestRecordOfAPodThatTheKernelCannotGuard(t *testing.T) {
	other := errors.New("other")
	for name, tt := range map[string]struct {
		err, want error
		guarded   bool
	}{
		"guarded":     {nil, nil, true},
		"unsupported": {guard.ErrUnsupported, nil, false},
		"other":       {other, other, true},
	} {
		t.Run(name, func(t *testing.T) {
			store := attachment.Open(t.TempDir(), network.Default)
			r := attachment.Record{ContainerID: "pod", IfName: "eth0", MAC: "02:00:00:00:01:02", Guarded: true}
			a, err := store.Lock(r.Owner().Key())
			if err != nil {
				t.Fatal(err)
			}
			sets, err := ipam.Complete(ipam.FromSubnets([]netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := a.Reserve(sets, nil); err != nil {
				t.Fatal(err)
			}
			if err := a.Write(r); err != nil {
				t.Fatal(err)
			}
			if err := unguardable(a, r, tt.err); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			entries, err := store.List()
			if err != nil || len(entries) != 1 || entries[0].Err != nil {
				t.Fatalf("%+v, %v", entries, err)
			}
			if got := entries[0].Record; got.Guarded != tt.guarded || got.Unguardable == tt.guarded {
				t.Errorf("got %+v", got)
			}
		})
	}
}
