package iptables

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
)

// nft is iptables-nft's tables. They are ordinary tables of nf_tables, so no
// program is needed: we send what iptables would send.
type nft struct{}

func (nft) name() string { return "iptables-nft" }

// stamp changes with every table of the namespace.
func (nft) stamp(family.Family) (any, error) {
	number, err := generation()
	if err != nil || number == 0 {
		return nil, err
	}
	return number, nil
}

// generation is the number of the last change to any table of the namespace.
func generation() (uint64, error) {
	const doing = "ask nf_tables for its generation"
	replies, err := ask(unix.NFT_MSG_GETGEN, unix.AF_UNSPEC)
	if without(err) {
		return 0, nil
	}
	if err != nil {
		return 0, failed(doing, err)
	}
	for _, m := range replies {
		if id, found := attribute(m, unix.NFTA_GEN_ID); found && len(id) == 4 {
			return uint64(binary.BigEndian.Uint32(id)), nil
		}
	}
	return 0, fmt.Errorf("%s: the answer has none", doing)
}

// without tells whether the error is that of a kernel without nf_tables: no
// netlink for netfilter, or nobody there who answers for it.
func without(err error) bool {
	for _, errno := range []error{unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.EINVAL, unix.EOPNOTSUPP} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// ask sends one request and returns what is answered.
func ask(message uint16, family byte, attributes ...netlink.Attribute) ([]netlink.Message, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }() // nothing was written that could be lost
	data, err := netlink.MarshalAttributes(attributes)
	if err != nil {
		return nil, err
	}
	return c.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | message),
			Flags: netlink.Request,
		},
		Data: append([]byte{family, unix.NFNETLINK_V0, 0, 0}, data...),
	})
}

// attribute finds one in a message, after the 4 bytes of its header.
func attribute(m netlink.Message, kind uint16) ([]byte, bool) {
	const header = 4
	if len(m.Data) < header {
		return nil, false
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[header:])
	if err != nil {
		return nil, false
	}
	for ad.Next() {
		if ad.Type() == kind {
			return ad.Bytes(), true
		}
	}
	return nil, false
}

// chainKind is what a name of a chain stands for.
type chainKind int

const (
	noChain chainKind = iota
	ordinaryChain
	baseChain // one that the kernel calls
)

// look asks for one chain. Listing all would take long where kube-proxy has
// some for each Service.
func look(family byte, table, chain string) (chainKind, error) {
	replies, err := ask(unix.NFT_MSG_GETCHAIN, family,
		netlink.Attribute{Type: unix.NFTA_CHAIN_TABLE, Data: append([]byte(table), 0)},
		netlink.Attribute{Type: unix.NFTA_CHAIN_NAME, Data: append([]byte(chain), 0)})
	if errors.Is(err, unix.ENOENT) || without(err) {
		return noChain, nil
	}
	if err != nil {
		return noChain, failed(fmt.Sprintf("look for chain %s of table %s", chain, table), err)
	}
	for _, m := range replies {
		if _, hooked := attribute(m, unix.NFTA_CHAIN_HOOK); hooked {
			return baseChain, nil
		}
	}
	return ordinaryChain, nil
}

// nftTable is table filter. nf_tables numbers the families as AF_* does.
func nftTable(f family.Family) *nftables.Table {
	return &nftables.Table{Name: filterTable, Family: nftables.TableFamily(f)}
}

// read takes several requests. What changes between them makes another stamp,
// and by that another reading; and rules are addressed by handles, which are
// never used twice, so a plan that was made of two states harms nobody.
func (nft) read(f family.Family, want []Rule) (Table, error) {
	t := nftTable(f)
	base, err := look(byte(t.Family), t.Name, forwardChain)
	if err != nil || base != baseChain {
		return Table{}, err
	}
	own, err := look(byte(t.Family), t.Name, ourChain)
	if err != nil {
		return Table{}, err
	}
	c, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return Table{}, failed("open a netlink socket to nf_tables", err)
	}
	defer func() { _ = c.CloseLasting() }()
	have := Table{Present: true, Chain: own != noChain}
	if have.Forward, err = baseRules(c, t); err != nil {
		return Table{}, err
	}
	if have.Chain {
		have.Rules, err = ownRules(c, t, want)
	}
	return have, err
}

func baseRules(c *nftables.Conn, t *nftables.Table) ([]BaseRule, error) {
	rules, err := rulesOf(c, t, forwardChain)
	if err != nil {
		return nil, err
	}
	var base []BaseRule
	for _, r := range rules {
		base = append(base, BaseRule{Kind: kindOf(r), Handle: r.Handle})
	}
	return base, nil
}

func ownRules(c *nftables.Conn, t *nftables.Table, want []Rule) ([]string, error) {
	rules, err := rulesOf(c, t, ourChain)
	if err != nil {
		return nil, err
	}
	var texts []string
	for _, r := range rules {
		texts = append(texts, textOf(r, byte(t.Family), want))
	}
	return texts, nil
}

func rulesOf(c *nftables.Conn, t *nftables.Table, chain string) ([]*nftables.Rule, error) {
	rules, err := c.GetRules(t, &nftables.Chain{Table: t, Name: chain})
	if err != nil {
		return nil, fmt.Errorf("list the rules of chain %s of table %s: %w", chain, t.Name, err)
	}
	return rules, nil
}

// apply carries the operations out in one transaction.
func (nft) apply(f family.Family, ops []Op) error {
	c, err := nftables.New()
	if err != nil {
		return failed("open a netlink socket to nf_tables", err)
	}
	b := batch{
		conn: c,
		base: &nftables.Chain{Table: nftTable(f), Name: forwardChain},
		own:  &nftables.Chain{Table: nftTable(f), Name: ourChain},
	}
	for _, op := range ops {
		if err := b.stage(op); err != nil {
			return fmt.Errorf("change table %s: %w", filterTable, err)
		}
	}
	if err := c.Flush(); err != nil {
		return failed("change table "+filterTable, err)
	}
	return nil
}

// batch is a transaction that is being put together.
type batch struct {
	conn      *nftables.Conn
	base, own *nftables.Chain
}

func (b batch) stage(op Op) error {
	switch op := op.(type) {
	case Fill:
		b.fill(op.Rules)
		return nil
	case PutJump:
		return b.jump(op)
	case Remove:
		return b.remove(op)
	}
	return fmt.Errorf("no such operation: %s", op)
}

func (b batch) fill(rules []Rule) {
	b.conn.AddChain(b.own)
	b.conn.FlushChain(b.own)
	for _, r := range rules {
		b.conn.AddRule(&nftables.Rule{Table: b.own.Table, Chain: b.own, Exprs: encode(r)})
	}
}

// jump adds the new jump before it removes the old ones. The library inserts
// before the rule of a position, but adds behind it.
func (b batch) jump(j PutJump) error {
	rule := &nftables.Rule{Table: b.base.Table, Chain: b.base, Exprs: encodeJump(b.own.Name)}
	if j.Number > 0 {
		rule.Position = j.Before.Handle
		b.conn.InsertRule(rule)
	} else {
		b.conn.AddRule(rule)
	}
	return b.drop(j.Remove)
}

func (b batch) drop(rules []BaseRule) error {
	for _, r := range rules {
		if err := b.conn.DelRule(&nftables.Rule{Table: b.base.Table, Chain: b.base, Handle: r.Handle}); err != nil {
			return err
		}
	}
	return nil
}

func (b batch) remove(r Remove) error {
	if err := b.drop(r.Jumps); err != nil {
		return err
	}
	if r.Chain {
		b.conn.FlushChain(b.own)
		b.conn.DelChain(b.own)
	}
	return nil
}
