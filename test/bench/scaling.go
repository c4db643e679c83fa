package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/overlay-cni/overlay-cni/test/internal/figures"
)

// scale is what it costs to connect a pod to a host that has some pods already.
type scale struct {
	Before int // pods that the host had when the window began
	// Milliseconds, of all repetitions. Floor is the kernel's work alone, on a
	// host of its own that has as many pods.
	Add, Floor []float64
}

// portLimit says what happens to the pod for which a Linux bridge has no port left.
type portLimit struct {
	Pods  int    // that were connected
	Error string // of the one too many
}

const (
	// window is how many ADDs are taken together: one alone says little.
	window = 20
	// atOnce is how many pods are taken off together between repetitions.
	atOnce = 16
	// bridgePorts is how many ports a Linux bridge has, see pkg/bridge.
	bridgePorts = 1023
)

// windows are the pods of a host that are compared: the first ones, those before the
// 250th, and those before the 1,000th.
var windows = []int{0, 250 - window, 1000 - window}

// measureScaling fills two hosts with pods, several times by turns: one with the
// plugin, one without. At the end it fills the plugin's host until the bridge is full.
func measureScaling(o options, progress io.Writer) ([]scale, *portLimit, error) {
	// A /21 has more addresses than the bridge has ports.
	c, err := newChain(o.dir, []byte(ourList(strings.ReplaceAll(ranges4, "/22", "/21"))))
	if err != nil {
		return nil, nil, err
	}
	h, err := newHost("scaling", atOnce, bridgePorts+1)
	if err != nil {
		return nil, nil, err
	}
	plain, err := newHost("scalingfloor", atOnce, windows[len(windows)-1]+window)
	if err != nil {
		return nil, nil, err
	}
	f, err := newFloor(plain, atOnce)
	if err != nil {
		return nil, nil, err
	}
	ours := filler{h, c, func(s *scale) *[]float64 { return &s.Add }}
	kernel := filler{plain, f, func(s *scale) *[]float64 { return &s.Floor }}
	scales := make([]scale, len(windows))
	for i, before := range windows {
		scales[i].Before = before
	}
	for n := range o.scaling {
		fmt.Fprintf(progress, "\rscaling %d of %d ", n+1, o.scaling)
		if err := kernel.fill(scales); err != nil {
			return nil, nil, err
		}
		empty(kernel.host, kernel.by)
		if err := ours.fill(scales); err != nil {
			return nil, nil, err
		}
		if n+1 < o.scaling {
			empty(ours.host, ours.by)
		}
	}
	fmt.Fprintln(progress)
	return scales, fillUp(h, c), nil
}

// filler fills a host with pods, and says where the times go.
type filler struct {
	host  *host
	by    attacher
	times func(*scale) *[]float64
}

// fill connects pods one after the other, and notes how long each pod of the windows
// took.
func (f filler) fill(scales []scale) error {
	for i := range windows[len(windows)-1] + window {
		if err := f.connect(i, scales); err != nil {
			return fmt.Errorf("scaling: pod %d: %w", i+1, err)
		}
	}
	return nil
}

func (f filler) connect(i int, scales []scale) error {
	start := time.Now()
	if err := f.host.do(func() error { return f.by.Add(f.host.pods[i]) }); err != nil {
		return err
	}
	took := milliseconds(time.Since(start))
	for w := range scales {
		if s := &scales[w]; i >= s.Before && i < s.Before+window {
			*f.times(s) = append(*f.times(s), took)
		}
	}
	return nil
}

// empty disconnects all pods.
func empty(h *host, a attacher) {
	for part := range slices.Chunk(h.pods, atOnce) {
		h.all(part, func(p *pod) { _ = a.Del(p) }) // what fails is met by the next ADD
	}
}

// fillUp connects pods until the bridge has no port left.
func fillUp(h *host, c *chain) *portLimit {
	limit := &portLimit{Pods: windows[len(windows)-1] + window}
	for _, p := range h.pods[limit.Pods:] {
		if err := h.do(func() error { return c.Add(p) }); err != nil {
			limit.Error = err.Error()
			break
		}
		limit.Pods++
	}
	empty(h, c)
	return limit
}

// scaling prints the part about many pods.
func (r *results) scaling(w io.Writer) {
	if len(r.Scaling) == 0 {
		return
	}
	t := figures.NewTable(w, fmt.Sprintf("Many pods (milliseconds for a pod, median of %d)", len(r.Scaling[0].Add)), 1, "ADDs", "median", "x the first", "floor", "x the first")
	first := r.Scaling[0]
	for _, s := range r.Scaling {
		t.Line(fmt.Sprintf("%d to %d", s.Before+1, s.Before+window),
			number(median(s.Add)), ratio(median(s.Add), median(first.Add)),
			number(median(s.Floor)), ratio(median(s.Floor), median(first.Floor)))
	}
	t.End()
	fmt.Fprintf(w, "\npods on one bridge: %d; the next: %s\n", r.Limit.Pods, r.Limit.Error)
}
