package monitor

import (
	"context"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
)

func TestChangesOfRulesAreToldOf(t *testing.T) {
	ns := sandboxtest.NewNetns(t)
	h := &host{t: t, ns: ns}
	told := make(chan Change, 1)
	h.start(func(ctx context.Context) error {
		return WatchRules(ctx, map[Table]Change{
			{unix.NFPROTO_INET, "mine"}:  Network,
			{unix.NFPROTO_INET, "ports"}: Pods,
		}, func(c Change) { told <- c })
	})
	is := func(what string, want Change) {
		t.Helper()
		select {
		case got := <-told:
			if got != want {
				t.Errorf("%s: got %v, want %v", what, got, want)
			}
		case <-time.After(patience):
			t.Errorf("nothing was told of: %s", what)
		}
	}
	is("that it watches", Network|Pods)
	conn, err := nftables.New(nftables.WithNetNSFd(ns.FD()))
	h.must(err)
	table := func(family nftables.TableFamily, name string) *nftables.Table {
		return &nftables.Table{Family: family, Name: name}
	}
	flush := func() {
		t.Helper()
		h.must(conn.Flush())
	}
	// Neither another program's table nor one of another family is told of, or
	// what is told of next would be something else.
	conn.AddTable(table(nftables.TableFamilyINet, "kube-proxy"))
	conn.AddTable(table(nftables.TableFamilyIPv4, "mine"))
	flush()
	mine := conn.AddTable(table(nftables.TableFamilyINet, "mine"))
	flush()
	is("a table comes", Network)
	chain := conn.AddChain(&nftables.Chain{Name: "c", Table: mine})
	flush()
	is("a chain comes", Network)
	rule := conn.AddRule(&nftables.Rule{Table: mine, Chain: chain})
	flush()
	is("a rule comes", Network)
	rules, err := conn.GetRules(mine, chain)
	h.must(err)
	rule.Handle = rules[0].Handle
	h.must(conn.DelRule(rule))
	flush()
	is("a rule goes", Network)
	ports := conn.AddTable(table(nftables.TableFamilyINet, "ports"))
	flush()
	is("the ports' table comes", Pods)
	set := &nftables.Set{Table: ports, Name: "s", KeyType: nftables.TypeInetService}
	h.must(conn.AddSet(set, nil))
	flush()
	is("a set comes", Pods)
	h.must(conn.SetAddElements(set, []nftables.SetElement{{Key: []byte{0, 80}}}))
	flush()
	is("an element comes", Pods)
	conn.DelTable(mine)
	flush()
	is("a table goes", Network)
}
