package vxlan

import (
	"fmt"
	"slices"

	"github.com/overlay-cni/overlay-cni/internal/rtnl"
)

// Notes says what ForceResync's Sync found on the device that may drop or divert
// packets. Sync leaves it alone: a queueing discipline may limit the tunnel's
// bandwidth on purpose, and monitoring programs attach filters.
func (k *Kernel) Notes() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.notes
}

// usualQdisc is what the kernel gives a device that has no queue of its own.
const usualQdisc = "noqueue"

// lookAround finds what Notes returns.
func (k *Kernel) lookAround(d Device) {
	var notes []string
	if d.XDP {
		notes = append(notes, d.Name+" has an XDP program, which may drop packets")
	}
	err := k.conn.EachQdisc(func(q rtnl.Qdisc) {
		if q.Index == d.Index && q.Kind != usualQdisc {
			notes = append(notes, fmt.Sprintf("%s has the qdisc %s, which may drop or divert packets (tc qdisc show dev %[1]s)", d.Name, q.Kind))
		}
	})
	if err != nil {
		return // as before: the kernel may lack traffic control
	}
	slices.Sort(notes)
	k.notes = slices.Compact(notes)
}
