package pods

import (
	"errors"
	"testing"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/guard"
)

// Only a record that says so makes the daemon guard a pod: earlier releases didn't
// write it. That the kernel couldn't guard a pod is told, for as long as the pod runs.
func TestSyncGuardGuardsWhatRecordsSay(t *testing.T) {
	for name, tt := range map[string]struct {
		change  func(*attachment.Record)
		guarded bool
		err     error
	}{
		"of an earlier release": {func(*attachment.Record) {}, false, nil},
		"guarded":               {func(r *attachment.Record) { r.Guarded = true }, true, nil},
		"the kernel couldn't":   {func(r *attachment.Record) { r.Unguardable = true }, false, guard.ErrUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			sandboxtest.Do(t, sandboxtest.NewNetns(t), func() error {
				h, err := Open(t.TempDir())
				if err != nil {
					return err
				}
				defer h.Close()
				a := attach(t, h, "pod")
				defer func() { _ = a.Close() }()
				r := attachment.Record{ContainerID: "pod", IfName: "eth0", MAC: "02:00:00:00:01:02", Bridge: "cni0", Netns: "/run/netns/none", Pod: "default/pod"}
				tt.change(&r)
				if err := errors.Join(a.Write(r), a.Close()); err != nil {
					return err
				}
				changes, err := h.SyncGuard(false)
				if (len(changes) > 0) != tt.guarded {
					t.Errorf("changes are %s", changes)
				}
				if !errors.Is(err, tt.err) {
					t.Errorf("got %v, want %v", err, tt.err)
				}
				return nil
			})
		})
	}
}
