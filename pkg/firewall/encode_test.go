package firewall

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Every step of every rule is what it was after a way there and back.
func TestStepsRoundTrip(t *testing.T) {
	for _, chain := range []Chain{masqueradeChain("cni0"), redirectChain("cni0")} {
		for _, rule := range chain.Rules {
			for _, want := range rule.Steps {
				e, err := encodeStep(want)
				if err != nil {
					t.Fatal(err)
				}
				if got := decodeStep(e); got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			}
		}
	}
}

// Instructions that are almost ours are not taken for ours.
func TestForeignInstructionsAreOther(t *testing.T) {
	for _, e := range []expr.Any{
		&expr.Masq{},
		&expr.Masq{FullyRandom: true, Random: true},
		&expr.Verdict{Kind: expr.VerdictAccept},
		&expr.Verdict{Kind: expr.VerdictJump, Chain: "x"},
		&expr.Cmp{Op: expr.CmpOpLt, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_2},
		&expr.Lookup{SourceRegister: register, SetName: "own4", IsDestRegSet: true},
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 3},
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: register, SourceRegister: true},
		&expr.Counter{},
	} {
		if got := decodeStep(e); got.Verb != Other || got.Arg == "" {
			t.Errorf("%#v was taken for %q", e, got)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	for _, s := range []Step{{Load, "ip version"}, {Other, "x"}, {}} {
		if _, err := encodeStep(s); err == nil {
			t.Errorf("step %q was encoded", s)
		}
	}
	if _, err := encodeChain(nil, Chain{Name: "x", Hook: Hook{Point: "egress", Policy: "accept"}}); err == nil {
		t.Error("a chain with an unknown hook was encoded")
	}
	if _, err := encodeSet(nil, Set{Name: "x", Type: "ipv4_addr", Flags: "interval,timeout"}); err == nil {
		t.Error("a set of an unknown kind was encoded")
	}
}

// What a kernel without a part of nf_tables answers can't be provoked on one
// that has it.
func TestErrorsAreExplained(t *testing.T) {
	rebuild, elements := []Op{Rebuild{}}, []Op{Change{}}
	for _, tc := range []struct {
		name string
		task task
		err  error
		want string
	}{
		{"no netfilter netlink", open(), unix.EPROTONOSUPPORT, ErrUnsupported.Error()},
		{"no nf_tables", askGeneration(), unix.EINVAL, ErrUnsupported.Error()},
		{"no inet family", change(rebuild), unix.EAFNOSUPPORT, ErrUnsupported.Error()},
		{"no masquerading", change(rebuild), unix.ENOENT, ErrUnsupported.Error()},
		{"no room", change(rebuild), unix.EMSGSIZE, "net.core.wmem_max"},
		{"not allowed", change(rebuild), unix.EPERM, "CAP_NET_ADMIN"},
		{"the table went away meanwhile", change(elements), unix.ENOENT, "change table inet overlay-cni"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := tc.task.failed(fmt.Errorf("netlink: %w", tc.err))
			if !strings.Contains(got.Error(), tc.want) || !errors.Is(got, tc.err) {
				t.Errorf("got %q, want %q in it", got, tc.want)
			}
			if unsupported := tc.want == ErrUnsupported.Error(); errors.Is(got, ErrUnsupported) != unsupported {
				t.Errorf("got %q, which is ErrUnsupported: %t", got, !unsupported)
			}
		})
	}
}

// Rules of other programs may have any data where ours have a comment.
func FuzzDecodeComment(f *testing.F) {
	for _, seed := range []string{"", "\x00", "\x00\x02x\x00", "\x00\xc8x", "\x01\x02x\x00"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		comment := decodeComment(data)
		if encoded := encodeComment(comment); !bytes.Equal(encoded, data) && comment != string(data) {
			t.Errorf("%q was taken for the comment %q", data, comment)
		}
	})
}

func FuzzGeneration(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 8, 0, 1, 0, 0, 0, 0, 7})
	f.Add([]byte{0, 0, 0, 0, 5, 0, 1, 0, 7, 0, 0, 0})
	f.Fuzz(func(_ *testing.T, message []byte) { generationIn(message) })
}

// Whatever boundaries the kernel gives, the ranges and the stray ends account
// for all of them, but for ends at the lowest address.
func FuzzElements(f *testing.F) {
	f.Add([]byte{10, 0, 20, 1})
	f.Add([]byte{0, 1, 5, 1, 7, 0, 9, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		var given, ignored int
		var bs []boundary
		for pair := range slices.Chunk(data, 2) {
			if len(pair) < 2 {
				break
			}
			b := boundary{at: netip.AddrFrom4([4]byte{0, 0, 0, pair[0]}), end: pair[1]%2 == 1}
			bs, given = append(bs, b), given+1
			if b.end && pair[0] == 0 {
				ignored++
			}
		}
		e := elementsOf(bs)
		seen := e.Stray + ignored
		for _, r := range e.Ranges {
			seen += len(r.boundaries())
		}
		if seen != given {
			t.Errorf("%v became %v: %d of %d boundaries", bs, e, seen, given)
		}
	})
}
