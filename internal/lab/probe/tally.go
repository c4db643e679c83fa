package probe

import "time"

// tally counts the packets of a stream.
type tally struct {
	answers    []uint32 // by the packet's number
	unique     int
	duplicated int
	reordered  int
	highest    uint64
	lastAnswer time.Time
	gap        time.Duration
}

// send enters one more packet and returns its number.
func (t *tally) send() uint64 {
	t.answers = append(t.answers, 0)
	return uint64(len(t.answers) - 1)
}

// answer enters an answer. One to a packet that was never sent is not ours.
func (t *tally) answer(number uint64, now time.Time) {
	if number >= uint64(len(t.answers)) {
		return
	}
	t.gap, t.lastAnswer = max(t.gap, now.Sub(t.lastAnswer)), now
	t.answers[number]++
	switch {
	case t.answers[number] > 1:
		t.duplicated++
		return
	case number < t.highest:
		t.reordered++
	}
	t.unique++
	t.highest = max(t.highest, number)
}

func (t *tally) missing() int { return len(t.answers) - t.unique }

func (t *tally) counts() Counts {
	return Counts{
		Sent:       len(t.answers),
		Lost:       t.missing(),
		Duplicated: t.duplicated,
		Reordered:  t.reordered,
		Gap:        t.gap,
	}
}
