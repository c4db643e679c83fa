package probe

import (
	"testing"
	"time"
)

func TestTally(t *testing.T) {
	tests := []struct {
		name    string
		sent    int
		answers []uint64 // one each millisecond
		want    Counts
	}{
		{"nothing sent", 0, nil, Counts{}},
		{"all", 3, []uint64{0, 1, 2}, Counts{Sent: 3, Gap: 1 * time.Millisecond}},
		{"none", 3, nil, Counts{Sent: 3, Lost: 3}},
		{"one lost", 3, []uint64{0, 2}, Counts{Sent: 3, Lost: 1, Gap: 1 * time.Millisecond}},
		{"one twice", 2, []uint64{0, 0, 1}, Counts{Sent: 2, Duplicated: 1, Gap: 1 * time.Millisecond}},
		{"overtaken", 3, []uint64{1, 0, 2}, Counts{Sent: 3, Reordered: 1, Gap: 1 * time.Millisecond}},
		{"overtaken and twice", 2, []uint64{1, 0, 0}, Counts{Sent: 2, Reordered: 1, Duplicated: 1, Gap: 1 * time.Millisecond}},
		{"never sent", 1, []uint64{0, 7, 1 << 63}, Counts{Sent: 1, Gap: 1 * time.Millisecond}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			now := time.Unix(0, 0)
			books := tally{lastAnswer: now}
			for range tt.sent {
				books.send()
			}
			for _, number := range tt.answers {
				now = now.Add(time.Millisecond)
				books.answer(number, now)
			}
			if got := books.counts(); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestGapIsTheLongest(t *testing.T) {
	start := time.Unix(0, 0)
	books := tally{lastAnswer: start}
	for i, at := range []time.Duration{1, 2, 9, 10} {
		books.send()
		books.answer(uint64(i), start.Add(at*time.Millisecond))
	}
	if got, want := books.counts().Gap, 7*time.Millisecond; got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}
