package main

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// load is a kind of traffic.
type load struct {
	columns []column // what it measures
	run     func(p path, d time.Duration) ([]float64, error)
}

// column is a figure of a load, and a column of the tables.
type column struct {
	Name, Unit string
	decimals   int
}

// maxStreams keeps the sockets of a load well below what a process may have.
const maxStreams = 256

// loads are all of them, in the order of the tables. Another one is a line here.
func loads(streams int) []load {
	return []load{
		streamLoad("1 stream", 1),
		streamLoad(fmt.Sprintf("%d streams", streams), streams),
		{[]column{{"request/response", "µs", 1}}, requests},
		{[]column{{"connect/request/response", "µs", 0}}, connects},
		{[]column{{"UDP request/response", "µs", 1}}, datagramRequests},
		{[]column{{"UDP packets", "1000/s", 0}}, packets},
	}
}

func streamLoad(name string, n int) load {
	columns := []column{{name, "Gbit/s", 2}, {name + ", CPU", "s/GB", 2}}
	return load{columns, func(p path, d time.Duration) ([]float64, error) { return streams(p, d, n) }}
}

// crew is the goroutines of a load. Each has a thread in its namespace.
type crew struct {
	running sync.WaitGroup
	stop    atomic.Bool

	mutex sync.Mutex
	errs  []error
}

// start starts one in a namespace. It runs until it is done, or sees stop.
func (c *crew) start(in func(func() error) error, fn func() error) {
	c.running.Go(func() {
		if err := in(fn); err != nil && !c.stop.Load() {
			c.mutex.Lock()
			defer c.mutex.Unlock()
			c.errs = append(c.errs, err)
		}
	})
}

// end stops all and returns what went wrong before. It shuts sockets down on which
// some of them may wait, listening ones and those of UDP too.
func (c *crew) end(sockets ...int) error {
	c.stop.Store(true)
	for _, fd := range sockets {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR) // without a peer it fails, but wakes up
	}
	c.running.Wait()
	return errors.Join(c.errs...)
}

// warmUp is the share of a load's time that isn't measured, at its begin: TCP's window
// opens, and caches fill.
const warmUp = 10

// counted is what happened in a time.
type counted struct {
	n    uint64
	took time.Duration
	cpu  float64 // seconds that the machine's CPUs were busy
}

func (c counted) perSecond() float64 { return float64(c.n) / c.took.Seconds() }

// during counts for d, after a warm-up. On a busy machine it takes longer: until
// something has happened, within patience.
func during(d time.Duration, count func() uint64) counted {
	begun := count()
	waitUntil(d/warmUp, func() bool { return count() > begun })
	before, start, cpu := count(), time.Now(), busy()
	waitUntil(d, func() bool { return count() > before })
	return counted{count() - before, time.Since(start), busy() - cpu}
}

// waitUntil waits for d, and then for something to happen.
func waitUntil(d time.Duration, happened func() bool) {
	<-time.After(d)
	for end := time.Now().Add(patience); !happened() && time.Now().Before(end); {
		<-time.After(time.Millisecond)
	}
}
