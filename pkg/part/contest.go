package part

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Contest is a dispute over a part: somebody undoes what the part sets, again and
// again, while the desired state stays the same. The zero value stands for none.
type Contest struct {
	What  string        // the changes that were undone, the first three by name
	Times int           // how often the one was that was undone most often
	Since time.Time     // when the first of them was made
	Pause time.Duration // between two syncs of the part
}

// Text says what an operator has to know.
func (c Contest) Text() string {
	return fmt.Sprintf("another program undoes this again and again: %s (%d times since %s, looked at again after %s): %s",
		c.What, c.Times, c.Since.UTC().Format(time.RFC3339), c.Pause, advice)
}

const advice = "tell that program to leave it alone, perhaps dhcpcd, NetworkManager, systemd-networkd or another network daemon: see docs/install.md"

const (
	// tolerated is how often a change may be made within the quiet time and still
	// count as a coincidence: a restarted firewall flushes its rules once, an operator
	// tries something out.
	tolerated = 4
	// The part's pause begins with firstPause and doubles with every repair that was
	// undone, up to lastPause or the resync interval. Longer pauses would save nothing
	// worth having, and as long as a part is contested, other damage to it waits, too.
	firstPause = time.Second
	lastPause  = 8 * time.Second
	// Between two repairs of a contest lies less than two resync intervals, but within
	// these bounds. If nothing is undone for that long, the contest is over.
	leastQuiet = 10 * time.Second
	mostQuiet  = time.Minute
	// whatShown is how many contested changes are named.
	whatShown = 3
)

// contest finds out which changes of a part somebody undoes.
type contest struct {
	longest time.Duration // pause
	quiet   time.Duration // after which the contest is over
	// repairs are the changes made within the quiet time, by what they are about.
	repairs map[string]repair
	// since is when the contest began; zero: there is none.
	since time.Time
	pause time.Duration
	until time.Time // the end of the pause
	last  time.Time // when a contested change was made
}

type repair struct {
	text        string
	order       int // among the changes of a sync
	times       int
	first, last time.Time
}

func newContest(resync time.Duration) contest {
	return contest{
		longest: max(firstPause, min(resync, lastPause)), quiet: max(leastQuiet, min(2*resync, mostQuiet)),
		repairs: map[string]repair{},
	}
}

// holds reports whether the part is left alone now.
func (c *contest) holds(now time.Time) bool { return now.Before(c.until) }

// due is when the part has to be synced for the contest's sake; zero: never.
func (c *contest) due(now time.Time) time.Time {
	switch {
	case c.since.IsZero():
		return time.Time{}
	case c.holds(now):
		return c.until
	}
	return c.last.Add(c.quiet)
}

// note takes the changes of a sync that had nothing new to do. It returns how many of
// them were made before and undone since.
func (c *contest) note(changes []string, now time.Time) (undone int) {
	seen := map[string]bool{}
	contested := false
	for order, change := range changes {
		key := about(change)
		if seen[key] {
			continue
		}
		seen[key] = true
		r := c.repairs[key]
		if r.times == 0 || now.Sub(r.last) > c.quiet {
			r = repair{first: now}
		}
		r.text, r.order, r.last = change, order, now
		r.times++
		c.repairs[key] = r
		if r.times > 1 {
			undone++
		}
		contested = contested || r.contested()
	}
	if contested {
		if c.since.IsZero() {
			c.since = now
		}
		c.pause = min(max(2*c.pause, firstPause), c.longest)
		c.last, c.until = now, now.Add(c.pause)
	}
	return undone
}

func (r repair) contested() bool { return r.times > tolerated }

// contests reports whether a change is one of those that somebody undoes.
func (c *contest) contests(change string) bool { return c.repairs[about(change)].contested() }

// expire forgets changes that were not undone for the quiet time. It reports whether
// the contest ended with that.
func (c *contest) expire(now time.Time) (ended bool) {
	contested := false
	for key, r := range c.repairs {
		if now.Sub(r.last) > c.quiet {
			delete(c.repairs, key)
		} else {
			contested = contested || r.contested()
		}
	}
	if c.since.IsZero() || contested {
		return false
	}
	c.since, c.pause, c.until = time.Time{}, 0, time.Time{}
	return true
}

// summary describes the contest.
func (c *contest) summary() Contest {
	if c.since.IsZero() {
		return Contest{}
	}
	s := Contest{Since: c.since, Pause: c.pause}
	var undone []repair
	for _, r := range c.repairs {
		if r.contested() {
			undone = append(undone, r)
			s.Times = max(s.Times, r.times-1)
			if r.first.Before(s.Since) {
				s.Since = r.first
			}
		}
	}
	slices.SortFunc(undone, func(a, b repair) int {
		return cmp.Or(cmp.Compare(b.times, a.times), cmp.Compare(a.order, b.order), strings.Compare(a.text, b.text))
	})
	var what []string
	for _, r := range undone[:min(whatShown, len(undone))] {
		what = append(what, r.text)
	}
	if more := len(undone) - whatShown; more > 0 {
		what = append(what, fmt.Sprintf("and %d more", more))
	}
	s.What = strings.Join(what, ", ")
	return s
}

// varying is the end of a change's text that may differ from one repair of a thing to
// the next: what was found there, and how many things are counted.
var varying = regexp.MustCompile(` \(was .*\)$|: \d+$`)

// about returns what a change is about, for a comparison with other changes.
func about(change string) string { return varying.ReplaceAllString(change, "") }
