package monitor

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/internal/nft"
)

func TestChangesOfRulesAreReported(t *testing.T) {
	ns := sandboxtest.NewNetns(t)
	h := &host{t: t, ns: ns}
	reported := make(chan Change, 1)
	h.start(func(ctx context.Context) error {
		return WatchRules(ctx, map[Table]Change{
			{unix.NFPROTO_INET, "mine"}:  Network,
			{unix.NFPROTO_INET, "ports"}: Pods,
		}, func(c Change) { reported <- c })
	})
	is := func(what string, want Change) {
		t.Helper()
		select {
		case got := <-reported:
			if got != want {
				t.Errorf("%s: got %v, want %v", what, got, want)
			}
		case <-time.After(patience):
			t.Errorf("the monitor did not report: %s", what)
		}
	}
	is("that it watches", Network|Pods)
	var conn *nft.Conn
	h.must(ns.Do(func() (err error) { conn, err = nft.Dial(); return err }))
	t.Cleanup(conn.Close)
	set := func(f nft.Family, name string, want *nft.Table) {
		t.Helper()
		_, err := conn.Sync(nft.ID{Family: f, Name: name}, func(*nft.Table) (*nft.Table, error) { return want, nil })
		h.must(err)
	}
	// Another program's table and one of another family are no change, or the next
	// change would be another one than expected.
	set(nft.Inet, "kube-proxy", &nft.Table{})
	set(unix.NFPROTO_IPV4, "mine", &nft.Table{})
	chain, rule := nft.Chain{Name: "c"}, nft.Chain{Name: "c", Rules: []nft.Rule{nft.NewRule("", nft.Counter())}}
	sets := []nft.Set{nft.NewSet("s", nft.Port)}
	for _, step := range []struct {
		what, table string
		want        *nft.Table
		change      Change
	}{
		{"a table comes", "mine", &nft.Table{}, Network},
		{"a chain comes", "mine", &nft.Table{Chains: []nft.Chain{chain}}, Network},
		{"a rule comes", "mine", &nft.Table{Chains: []nft.Chain{rule}}, Network},
		{"a rule goes", "mine", &nft.Table{Chains: []nft.Chain{chain}}, Network},
		{"the ports' table comes", "ports", &nft.Table{}, Pods},
		{"a set comes", "ports", &nft.Table{Sets: sets}, Pods},
		{"an element comes", "ports", &nft.Table{Sets: sets, Elements: []nft.Element{{Set: "s", Key: "\x00\x50"}}}, Pods},
		{"a table goes", "mine", nil, Network},
	} {
		set(nft.Inet, step.table, step.want)
		is(step.what, step.change)
	}
}
