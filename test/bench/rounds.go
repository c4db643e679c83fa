package main

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// series is what one row did in one mode. Times are in milliseconds.
type series struct {
	Add, Del []float64
	// AddRate is how many pods a second were connected, for each turn.
	AddRate, DelRate []float64
	// Failed counts the calls that failed, which are not among the times.
	Failed int
	Error  string // of the first one that failed

	mutex sync.Mutex
}

// play gives each set its turns. In round r the order starts with set r.
func play(o options, sets []*set, progress io.Writer) {
	for round := range o.rounds {
		fmt.Fprintf(progress, "\rround %d of %d ", round+1, o.rounds)
		for i := range sets {
			sets[(round+i)%len(sets)].turn(o)
		}
	}
	fmt.Fprintln(progress)
}

// turn connects and disconnects pods, first one after the other and then all at once,
// for each row.
func (s *set) turn(o options) {
	for _, r := range s.rows {
		if r.Note != "" {
			continue
		}
		oneByOne := func(fn func(*pod)) {
			for _, p := range s.host.pods[:o.pods] {
				_ = s.host.do(func() error { fn(p); return nil })
			}
		}
		r.Sequential.turn(r.attacher, o.pods, oneByOne)
		atOnce := func(fn func(*pod)) { s.host.all(s.host.pods[:o.parallel], fn) }
		r.Parallel.turn(r.attacher, o.parallel, atOnce)
	}
}

func (m *series) turn(a attacher, pods int, forEach func(func(*pod))) {
	for _, step := range []struct {
		do          func(*pod) error
		times, rate *[]float64
	}{{a.Add, &m.Add, &m.AddRate}, {a.Del, &m.Del, &m.DelRate}} {
		start := time.Now()
		forEach(func(p *pod) {
			m.time(step.times, func() error { return step.do(p) })
		})
		*step.rate = append(*step.rate, float64(pods)/time.Since(start).Seconds())
	}
}

// time notes how long fn takes.
func (m *series) time(times *[]float64, fn func() error) {
	start := time.Now()
	err := fn()
	m.note(times, time.Since(start), err)
}

func (m *series) note(times *[]float64, took time.Duration, err error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if err == nil {
		*times = append(*times, milliseconds(took))
		return
	}
	if m.Failed++; m.Error == "" {
		m.Error = err.Error()
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
