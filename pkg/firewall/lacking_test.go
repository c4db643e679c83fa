package firewall

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/overlay-cni/overlay-cni/internal/nft"
)

// lacking is a kernel that lacks an instruction, or everything.
type lacking struct {
	instruction string
	has         *nft.Table
	tries       int
}

func (l *lacking) Sync(want *nft.Table) ([]nft.Change, error) {
	l.tries++
	for _, c := range want.Chains {
		for _, r := range c.Rules {
			if slices.ContainsFunc(r.Exprs, func(e nft.Expr) bool { return l.instruction == "all" || e.Name == l.instruction }) {
				return nil, fmt.Errorf("change table: %w", nft.ErrUnsupported)
			}
		}
	}
	l.has = want
	return nil, nil
}

// What keeps the tunnel out of connection tracking is no reason to have no table.
func TestAKernelThatLacksAPart(t *testing.T) {
	for _, tt := range []struct {
		lacks   string
		tracked bool // by the configuration
		want    error
	}{
		{"", false, nil},
		{"fib", false, ErrTracked},
		{"notrack", false, ErrTracked},
		{"fib", true, nil},
		{"all", false, nft.ErrUnsupported},
		{"all", true, nft.ErrUnsupported},
	} {
		t.Run(fmt.Sprint(tt.lacks, tt.tracked), func(t *testing.T) {
			want, err := Desired(Config{Bridge: "cni0", Tunnel: Tunnel{Device: "overlay0", VNI: 1, Port: 4789, Tracked: tt.tracked}})
			if err != nil {
				t.Fatal(err)
			}
			kernel := &lacking{instruction: tt.lacks}
			k := &Kernel{keeper: kernel}
			for range 2 {
				_, err := k.Sync(want)
				if !errors.Is(err, tt.want) || (tt.want != ErrTracked && errors.Is(err, ErrTracked)) { //nolint:errorlint // of the table above
					t.Errorf("got %v, want %v", err, tt.want)
				}
			}
			if (kernel.has == nil) != (tt.lacks == "all") {
				t.Errorf("the kernel has %+v", kernel.has)
			}
			if tt.want != ErrTracked { //nolint:errorlint // of the table above
				return
			}
			if kernel.tries != 3 || len(kernel.has.Chains) != len(want.Chains)-2 {
				t.Errorf("%d tries, %d of %d chains", kernel.tries, len(kernel.has.Chains), len(want.Chains))
			}
			kernel.instruction = "" // its module is loaded
			k.ForceResync()
			if _, err := k.Sync(want); err != nil || kernel.has != want {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}
