package shaper

import (
	"math"
	"testing"
)

// The values are those of "tc qdisc add ... tbf rate 8mbit burst 10kb latency 25ms",
// but for the buffer, which the kernel counts in ticks of 64 ns.
func TestBucket(t *testing.T) {
	b := Rate{Rate: 8_000_000, Burst: 80_000}.bucket(7)
	if b.LinkIndex != 7 || b.Rate != 1_000_000 || b.Limit != 35_000 || b.Buffer == 0 {
		t.Errorf("got %+v", b)
	}
	huge := Rate{Rate: math.MaxUint64, Burst: math.MaxUint32 * 8}.bucket(7)
	if huge.Limit != math.MaxUint32 {
		t.Errorf("a limit that the kernel can't count is %d", huge.Limit)
	}
}
