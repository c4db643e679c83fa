package iptables

import (
	"fmt"
	"strings"
	"testing"
)

// The kernel's answer is read by offsets in it, which must not lead outside.
func FuzzDump(f *testing.F) {
	for _, family := range families() {
		l := layoutOf(family)
		rule := make([]byte, l.header+40)
		rule[l.offsets()], rule[l.offsets()+2] = byte(l.header), byte(len(rule))
		f.Add(family == IPv4, uint32(0), uint32(len(rule)), append(rule, rule...))
	}
	f.Fuzz(func(t *testing.T, v4 bool, entry, underflow uint32, rules []byte) {
		d := &dump{layout: layoutOf(IPv6), rules: rules}
		if v4 {
			d.layout = layoutOf(IPv4)
		}
		d.info.HookEntry[2], d.info.Underflow[2] = entry, underflow
		d.sum()
		d.drops()
		d.mentions("OVERLAY-CNI-FWD")
		seen := 0
		d.each(func(offset int, rule []byte) bool {
			if offset != seen {
				t.Errorf("rule at %d, want %d", offset, seen)
			}
			seen += len(rule)
			return true
		})
		if seen > len(rules) {
			t.Errorf("read %d of %d bytes", seen, len(rules))
		}
	})
}

// What is deleted as ours ends with our jump, whatever its author wrote.
func FuzzKindOfText(f *testing.F) {
	for _, rule := range []string{
		"-j OVERLAY-CNI-FWD", "-i eth0 -g OVERLAY-CNI-FWD", "-j DROP", `-m comment --comment "a \" b" -j REJECT`,
		`-m comment --comment "-j OVERLAY-CNI-FWD"`, "", "-j", `-m comment --comment "`,
	} {
		f.Add(rule)
	}
	f.Fuzz(func(t *testing.T, rule string) {
		k := kindOfText(rule, forward().Chain)
		r := BaseRule{Kind: k}
		if r.ours() && !strings.HasSuffix(rule, " OVERLAY-CNI-FWD") {
			t.Errorf("%q was taken for ours", rule)
		}
		if k == Right && rule != "-j OVERLAY-CNI-FWD" {
			t.Errorf("%q was taken for our jump", rule)
		}
	})
}

// BenchmarkUnchanged is what asking costs, and a Sync that has nothing to do,
// with Docker's rules and with as many more as a large table has.
func BenchmarkUnchanged(b *testing.B) {
	for _, v := range []variant{variants()[0], variants()[2]} {
		for _, more := range []int{0, 1000, 10000} {
			s, k, want := newSpace(b), New(), forwarding(b)
			rules := append(docker(), ":MORE - [0:0]")
			for i := range more {
				rules = append(rules, fmt.Sprintf("-A MORE -s 10.%d.%d.0/24 -p tcp -m tcp --dport 80 -j RETURN", i/250, i%250))
			}
			s.restore(v, "filter", rules...)
			s.mustSync(k, want)
			s.mustSync(k, want)
			for name, do := range map[string]func() error{
				"fingerprint": func() error { _, err := k.Fingerprint(want); return err },
				"sync":        func() error { _, err := k.Sync(want); return err },
			} {
				b.Run(fmt.Sprintf("%s/%d/%s", v, more, name), func(b *testing.B) {
					s.In(func() error {
						for b.Loop() {
							if err := do(); err != nil {
								return err
							}
						}
						return nil
					})
				})
			}
		}
	}
}

// BenchmarkMending is a Sync after everything of ours was flushed.
func BenchmarkMending(b *testing.B) {
	for _, v := range []variant{variants()[0], variants()[2]} {
		b.Run(v.String(), func(b *testing.B) {
			s, k, want := newSpace(b), New(), forwarding(b)
			s.restore(v, "filter", docker()...)
			s.mustSync(k, want)
			for b.Loop() {
				b.StopTimer()
				s.restore(v, "filter", "-F")
				b.StartTimer()
				if changes, err := s.sync(k, want); err != nil || len(changes) == 0 {
					b.Fatal(changes, err)
				}
			}
		})
	}
}
