package iptables

import (
	"fmt"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/internal/family"
)

// The kernel's answer is read by offsets in it, which must not lead outside.
func FuzzLegacyRules(f *testing.F) {
	for _, family := range family.All() {
		l := layoutOf(family)
		rule := make([]byte, l.matchesFrom+40)
		rule[l.match+4], rule[l.match+6] = byte(l.matchesFrom), byte(len(rule))
		f.Add(uint8(family), uint32(0), uint32(len(rule)), append(rule, rule...))
	}
	f.Fuzz(func(_ *testing.T, number uint8, entry, underflow uint32, rules []byte) {
		r := legacyRules{layout: layoutOf(family.Family(number)), bytes: rules}
		r.info.HookEntry[2], r.info.Underflow[2] = entry, underflow
		r.drops()
		r.mentions(ourChain)
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
		k := kindOfText(rule)
		r := BaseRule{Kind: k}
		if r.ours() && !strings.HasSuffix(rule, " OVERLAY-CNI-FWD") {
			t.Errorf("%q was taken for ours", rule)
		}
		if k == Jump && rule != "-j OVERLAY-CNI-FWD" {
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
				"poll": func() error { poll(map[family.Family]any{}); return nil },
				"sync": func() error { _, err := k.Sync(want); return err },
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
