package firewall_test

import (
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/firewall"
)

// damager is the foreign hand in the table.
type damager struct {
	conn  *nftables.Conn
	table *nftables.Table
}

func newDamager(t *testing.T) *damager {
	t.Helper()
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	return &damager{conn, &nftables.Table{Name: firewall.TableName, Family: nftables.TableFamilyINet}}
}

func (d *damager) flush(t *testing.T) {
	t.Helper()
	if err := d.conn.Flush(); err != nil {
		t.Fatalf("damage the table: %v", err)
	}
}

func (d *damager) chain(name string) *nftables.Chain {
	return &nftables.Chain{Table: d.table, Name: name}
}

func (d *damager) rules(t *testing.T, chain string) []*nftables.Rule {
	t.Helper()
	rules, err := d.conn.GetRules(d.table, d.chain(chain))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		r.Table, r.Chain, r.Position = d.table, d.chain(chain), 0
	}
	return rules
}

func (d *damager) deleteTable(t *testing.T) {
	d.conn.DelTable(d.table)
	d.flush(t)
}

// putToSleep sets the flag "dormant", which the library can't.
func (d *damager) putToSleep(t *testing.T) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	attributes, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_TABLE_NAME, Data: append([]byte(d.table.Name), 0)},
		{Type: unix.NFTA_TABLE_FLAGS, Data: []byte{0, 0, 0, unix.NFT_TABLE_F_DORMANT}},
	})
	if err != nil {
		t.Fatal(err)
	}
	message := func(typ netlink.HeaderType, flags netlink.HeaderFlags, data ...byte) netlink.Message {
		return netlink.Message{Header: netlink.Header{Type: typ, Flags: netlink.Request | flags}, Data: data}
	}
	subsystem := []byte{0, 0, 0, unix.NFNL_SUBSYS_NFTABLES}
	if _, err := c.SendMessages([]netlink.Message{
		message(unix.NFNL_MSG_BATCH_BEGIN, 0, subsystem...),
		message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWTABLE, netlink.Acknowledge,
			append([]byte{unix.NFPROTO_INET, 0, 0, 0}, attributes...)...),
		message(unix.NFNL_MSG_BATCH_END, 0, subsystem...),
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Receive(); err != nil {
		t.Fatal(err)
	}
}

func (d *damager) deleteRule(t *testing.T) {
	if err := d.conn.DelRule(d.rules(t, "postrouting")[1]); err != nil {
		t.Fatal(err)
	}
	d.flush(t)
}

// alterRule makes the ports of masquerading predictable.
func (d *damager) alterRule(t *testing.T) {
	r := d.rules(t, "postrouting")[0]
	r.Exprs[len(r.Exprs)-1] = &expr.Masq{}
	d.conn.ReplaceRule(r)
	d.flush(t)
}

func (d *damager) alterComment(t *testing.T) {
	r := d.rules(t, "postrouting")[0]
	r.UserData = []byte{0, 200, 'x'} // no comment: its length is wrong
	d.conn.ReplaceRule(r)
	d.flush(t)
}

func (d *damager) addRule(t *testing.T) {
	d.conn.AddRule(&nftables.Rule{
		Table: d.table, Chain: d.chain("postrouting"), Exprs: []expr.Any{&expr.Counter{}},
	})
	d.flush(t)
}

func (d *damager) reorderRules(t *testing.T) {
	first := d.rules(t, "postrouting")[0]
	if err := d.conn.DelRule(first); err != nil {
		t.Fatal(err)
	}
	first.Handle = 0
	d.conn.AddRule(first)
	d.flush(t)
}

func (d *damager) flushChain(t *testing.T) {
	d.conn.FlushChain(d.chain("postrouting"))
	d.flush(t)
}

func (d *damager) deleteChain(t *testing.T) {
	d.conn.FlushChain(d.chain("output"))
	d.conn.DelChain(d.chain("output"))
	d.flush(t)
}

func (d *damager) alterPolicy(t *testing.T) {
	c, drop := d.chain("output"), nftables.ChainPolicyDrop
	c.Policy = &drop
	d.conn.AddChain(c)
	d.flush(t)
}

func (d *damager) alterPriority(t *testing.T) {
	rules := d.rules(t, "output")
	d.deleteChain(t)
	c, accept := d.chain("output"), nftables.ChainPolicyAccept
	c.Type, c.Hooknum = nftables.ChainTypeFilter, nftables.ChainHookOutput
	c.Priority, c.Policy = nftables.ChainPriorityRef(-7), &accept
	d.conn.AddChain(c)
	for _, r := range rules {
		r.Handle = 0
		d.conn.AddRule(r)
	}
	d.flush(t)
}

func (d *damager) addChain(t *testing.T) {
	d.conn.AddChain(d.chain("foreign"))
	d.flush(t)
}

func (d *damager) addMap(t *testing.T) {
	if err := d.conn.AddSet(&nftables.Set{
		Table: d.table, Name: "foreign", IsMap: true, ID: 1,
		KeyType: nftables.TypeInetService, DataType: nftables.TypeVerdict,
	}, nil); err != nil {
		t.Fatal(err)
	}
	d.flush(t)
}

// alterSet makes the elements of a set vanish after a while.
func (d *damager) alterSet(t *testing.T) {
	rules := d.rules(t, "postrouting")
	d.flushChain(t)
	d.conn.DelSet(&nftables.Set{Table: d.table, Name: "own4"})
	if err := d.conn.AddSet(&nftables.Set{
		Table: d.table, Name: "own4", ID: 1, KeyType: nftables.TypeIPAddr, Interval: true, HasTimeout: true,
	}, nil); err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		r.Handle = 0
		d.conn.AddRule(r)
	}
	d.flush(t)
}

func (d *damager) addOwn(t *testing.T, elements ...nftables.SetElement) {
	t.Helper()
	if err := d.conn.SetAddElements(&nftables.Set{Table: d.table, Name: "own4"}, elements); err != nil {
		t.Fatal(err)
	}
	d.flush(t)
}

// deleteAll deletes the elements of a set one by one.
func (d *damager) deleteAll(t *testing.T, name string) {
	set := &nftables.Set{Table: d.table, Name: name}
	elements, err := d.conn.GetSetElements(set)
	if err != nil || len(elements) == 0 {
		t.Fatalf("elements %v of set %s: %v", elements, name, err)
	}
	if err := d.conn.SetDeleteElements(set, elements); err != nil {
		t.Fatal(err)
	}
	d.flush(t)
}

func (d *damager) deleteElement(t *testing.T) { d.deleteAll(t, "own4") }

func (d *damager) deleteElement6(t *testing.T) { d.deleteAll(t, "own6") }

func (d *damager) flushSet(t *testing.T) {
	d.conn.FlushSet(&nftables.Set{Table: d.table, Name: "network4"})
	d.flush(t)
}

func (d *damager) addElement(t *testing.T) {
	d.addOwn(t,
		nftables.SetElement{Key: []byte{172, 16, 0, 0}},
		nftables.SetElement{Key: []byte{172, 16, 1, 0}, IntervalEnd: true})
}

func (d *damager) addAdjacent(t *testing.T) {
	d.addElement(t)
	d.addOwn(t,
		nftables.SetElement{Key: []byte{172, 16, 1, 0}},
		nftables.SetElement{Key: []byte{172, 16, 2, 0}, IntervalEnd: true})
}

func (d *damager) addOpenRange(t *testing.T) {
	d.addOwn(t, nftables.SetElement{Key: []byte{172, 16, 0, 0}})
}

func (d *damager) addStrayEnd(t *testing.T) {
	d.addOwn(t, nftables.SetElement{Key: []byte{9, 0, 0, 0}, IntervalEnd: true})
}
