package daemon

import (
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/vxlan"
)

// What is believed without reading it is believed for one resync.
func TestDoubtComesOnceInAResync(t *testing.T) {
	right := settled{generation: 7, number: 1}
	for name, tt := range map[string]struct {
		ago  time.Duration
		want settled
	}{
		"just read":    {time.Minute, right},
		"a resync ago": {time.Hour, settled{}},
	} {
		d := &daemon{vxlan: &vxlan.Kernel{}, resync: time.Hour, read: time.Now().Add(-tt.ago), settled: right}
		d.doubt()
		if d.settled != tt.want {
			t.Errorf("%s: the table is settled as %v, want %v", name, d.settled, tt.want)
		}
		if now := time.Since(d.read) < time.Minute; now != (d.settled != right) {
			t.Errorf("%s: read %s ago", name, time.Since(d.read))
		}
	}
	d := &daemon{vxlan: &vxlan.Kernel{}, resync: time.Hour, settled: right}
	d.doubt()
	if d.settled == right {
		t.Error("what was never read is believed")
	}
}
