package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// scale is what connecting a pod costs when a host has some already.
type scale struct {
	Before int       // pods that the host had when the window began
	Add    []float64 // milliseconds, of all repetitions
}

// portLimit is what became of the pod that a Linux bridge has no port for.
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

// windows are the places in the filling of a host that are compared: its first
// pods, those up to the 250th, and those up to the 1,000th.
var windows = []int{0, 250 - window, 1000 - window}

// measureScaling fills a host with pods, one after the other, several times,
// and at last until its bridge is full.
func measureScaling(o options, progress io.Writer) ([]scale, *portLimit, error) {
	// A /21 has more addresses than the bridge has ports.
	c, err := newChain(o.dir, []byte(strings.ReplaceAll(ourList, "10.1.0.0/22", "10.1.0.0/21")))
	if err != nil {
		return nil, nil, err
	}
	h, err := newHost("scaling", atOnce, bridgePorts+1)
	if err != nil {
		return nil, nil, err
	}
	scales := make([]scale, len(windows))
	for i, before := range windows {
		scales[i].Before = before
	}
	for n := range o.scaling {
		fmt.Fprintf(progress, "\rscaling %d of %d ", n+1, o.scaling)
		if err := fill(h, c, scales); err != nil {
			return nil, nil, err
		}
		if n+1 < o.scaling {
			empty(h, c)
		}
	}
	fmt.Fprintln(progress)
	return scales, fillUp(h, c), nil
}

// fill connects pods and notes how long those in the windows took.
func fill(h *host, c *chain, scales []scale) error {
	var s series
	for i, p := range h.pods[:windows[len(windows)-1]+window] {
		var times []float64
		_ = h.do(func() error { s.time(&times, func() error { return c.Add(p) }); return nil })
		if s.Failed > 0 {
			return fmt.Errorf("scaling: pod %d: %s", i+1, s.Error)
		}
		for w := range scales {
			if i >= scales[w].Before && i < scales[w].Before+window {
				scales[w].Add = append(scales[w].Add, times...)
			}
		}
	}
	return nil
}

// empty takes all pods off.
func empty(h *host, c *chain) {
	for part := range slices.Chunk(h.pods, atOnce) {
		h.all(part, func(p *pod) { _ = c.Del(p) }) // what fails is met by the next ADD
	}
}

// fillUp connects the rest of the pods, the last of which has no port.
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
	t := newTable(w, fmt.Sprintf("Many pods (milliseconds for a pod, median of %d)", len(r.Scaling[0].Add)), "ADDs", "median", "x the first")
	first := median(r.Scaling[0].Add)
	for _, s := range r.Scaling {
		t.line(fmt.Sprintf("%d to %d", s.Before+1, s.Before+window), number(median(s.Add)), ratio(median(s.Add), first))
	}
	t.end()
	fmt.Fprintf(w, "\npods on one bridge: %d; the next: %s\n", r.Limit.Pods, r.Limit.Error)
}
