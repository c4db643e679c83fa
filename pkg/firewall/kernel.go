package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// readAttempts is how often a read that a change interrupted is repeated. One
// takes a few milliseconds; with 20,000 dual stack peers, a quarter of a second.
const readAttempts = 10

// Kernel reads and changes the table in one network namespace. It holds no
// socket, so it needs no closing. It is for one goroutine at a time.
type Kernel struct {
	netns int // as netlink.Config has it: 0 is the namespace of the calling thread
	// While nf_tables is at this generation the table is as settled says.
	// 0: the table has to be read.
	generation uint32
	settled    State
}

// Option changes where a Kernel works.
type Option func(*Kernel)

// InNetns makes the Kernel work in the namespace of an open file descriptor,
// which has to stay open. It takes CAP_SYS_ADMIN to go there.
func InNetns(fd int) Option { return func(k *Kernel) { k.netns = fd } }

// New returns the door to the network namespace in which the thread is that
// calls a method.
func New(options ...Option) *Kernel {
	k := &Kernel{}
	for _, o := range options {
		o(k)
	}
	return k
}

// Sync makes the table what want says and tells what it changed, which is
// nothing if all was right. After an error the table is as it was. Sync reads the
// table only if nf_tables or want changed: with the subnets of thousands of nodes
// in its sets the table is long.
func (k *Kernel) Sync(want State) (changes []string, err error) {
	now, err := k.readGeneration()
	if err != nil {
		return nil, err
	}
	if now == k.generation && k.settled.Equal(want) {
		return nil, nil
	}
	k.generation = 0
	have, err := k.Read()
	if err != nil {
		return nil, err
	}
	ops := Plan(want, have)
	if len(ops) == 0 {
		k.generation, k.settled = now, want
	}
	if err := k.Apply(ops); err != nil {
		return nil, err
	}
	for _, op := range ops {
		changes = append(changes, op.String())
	}
	return changes, nil
}

// Remove deletes the table and tells what it changed. A kernel without nf_tables
// has none.
func (k *Kernel) Remove() (changes []string, err error) {
	changes, err = k.Sync(State{})
	if errors.Is(err, ErrUnsupported) {
		err = nil
	}
	return changes, err
}

// Read returns the table as it is. What it consists of is read by several
// requests; the kernel numbers its changes, and if the number is another
// afterwards, the pieces may not belong together, and are read again.
func (k *Kernel) Read() (State, error) {
	for range readAttempts {
		before, err := k.readGeneration()
		if err != nil {
			return State{}, err
		}
		s, readErr := k.readOnce()
		after, err := k.readGeneration()
		if err != nil {
			return State{}, err
		}
		if before == after {
			return s, readErr
		}
	}
	return State{}, fmt.Errorf("read table inet %s: %w", TableName, ErrUnstable)
}

// readGeneration returns the number of the last change to the namespace's rules. It is
// the first thing that is asked for, so it finds out whether there is nf_tables.
func (k *Kernel) readGeneration() (uint32, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: k.netns})
	if err != nil {
		return 0, open().failed(err)
	}
	defer func() { _ = c.Close() }() // nothing was written that could be lost
	replies, err := c.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN,
			Flags: netlink.Request,
		},
		Data: []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0},
	})
	if err != nil {
		return 0, askGeneration().failed(err)
	}
	for _, m := range replies {
		if id, found := generationIn(m.Data); found {
			return id, nil
		}
	}
	return 0, errors.New("ask nf_tables for its generation: the answer has none")
}

// generationIn finds the number in a message, after the 4 bytes of its header.
func generationIn(message []byte) (uint32, bool) {
	const header = 4
	if len(message) < header {
		return 0, false
	}
	ad, err := netlink.NewAttributeDecoder(message[header:])
	if err != nil {
		return 0, false
	}
	for ad.Next() {
		if b := ad.Bytes(); ad.Type() == unix.NFTA_GEN_ID && len(b) == 4 {
			return binary.BigEndian.Uint32(b), true
		}
	}
	return 0, false
}

// conn returns a connection for one read or one transaction. The library keeps
// what was queued before an error for the next one, so none is used twice.
func (k *Kernel) conn(options ...nftables.ConnOption) (*nftables.Conn, error) {
	return nftables.New(append(options, nftables.WithNetNSFd(k.netns))...)
}

func (k *Kernel) readOnce() (State, error) {
	c, err := k.conn(nftables.AsLasting())
	if err != nil {
		return State{}, open().failed(err)
	}
	defer func() { _ = c.CloseLasting() }() // nothing was written that could be lost
	s, err := readTable(c)
	if err != nil {
		return State{}, read().failed(err)
	}
	return s, nil
}

func readTable(c *nftables.Conn) (State, error) {
	table, err := c.ListTableOfFamily(TableName, nftables.TableFamilyINet)
	if errors.Is(err, unix.ENOENT) {
		return State{}, nil
	}
	if err != nil {
		return State{}, err
	}
	s := State{Present: true, Skeleton: Skeleton{Flags: table.Flags}, Elements: map[string]Elements{}}
	if err := s.readChains(c, table); err != nil {
		return State{}, err
	}
	if err := s.readSets(c, table); err != nil {
		return State{}, err
	}
	s.sort()
	return s, nil
}

func (s *State) readChains(c *nftables.Conn, table *nftables.Table) error {
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return fmt.Errorf("list chains: %w", err)
	}
	for _, ch := range chains {
		if ch.Table.Name != TableName {
			continue
		}
		rules, err := c.GetRules(table, ch)
		if err != nil {
			return fmt.Errorf("list rules of chain %s: %w", ch.Name, err)
		}
		chain := decodeChain(ch)
		for _, r := range rules {
			chain.Rules = append(chain.Rules, decodeRule(r))
		}
		s.Chains = append(s.Chains, chain)
	}
	return nil
}

// readSets reads the definitions of all sets, and the elements of those of the
// kind that is ours. A set of another kind differs by its definition already.
func (s *State) readSets(c *nftables.Conn, table *nftables.Table) error {
	sets, err := c.GetSets(table)
	if err != nil {
		return fmt.Errorf("list sets: %w", err)
	}
	for _, set := range sets {
		def := decodeSet(set)
		s.Sets = append(s.Sets, def)
		if _, err := encodeSet(table, def); err != nil {
			continue
		}
		elements, err := c.GetSetElements(set)
		if err != nil {
			return fmt.Errorf("list elements of set %s: %w", set.Name, err)
		}
		if s.Elements[set.Name], err = decodeRanges(elements); err != nil {
			return fmt.Errorf("set %s: %w", set.Name, err)
		}
	}
	return nil
}

// Apply carries out the operations in one transaction: all of them or none.
func (k *Kernel) Apply(ops []Op) error {
	if len(ops) == 0 {
		return nil
	}
	conn, err := k.conn(nftables.WithSockOptions(prepareSocket))
	if err != nil {
		return open().failed(err)
	}
	b := &batch{conn: conn, table: &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}}
	for _, op := range ops {
		if err := op.stage(b); err != nil {
			return fmt.Errorf("change table inet %s: %w", TableName, err)
		}
	}
	if err := b.conn.Flush(); err != nil {
		return change(ops).failed(err)
	}
	return nil
}

// Buffers of the socket that a transaction is sent by. The kernel takes it in
// one piece, and answers each of its messages before the first answer is read.
// These are limits, no memory is taken by them. A range of IPv6 addresses takes
// 72 bytes to send, so this is enough for 200,000, ten times the largest
// network that is planned for; the answers are a few bytes for a thousand.
const (
	sendBuffer    = 16 << 20
	receiveBuffer = 4 << 20
)

// prepareSocket raises the buffers beyond the host's limits where that is
// allowed (in the initial user namespace), and up to them elsewhere. The last
// keeps the kernel from answering an error with the whole message, which would
// overrun the buffer and hide the error. It can't also say in words what was
// wrong: the library looks for that behind the whole message, and where there
// is only its header gives up, so that the error is lost.
func prepareSocket(c *netlink.Conn) error {
	return errors.Join(
		c.SetWriteBuffer(sendBuffer),
		c.SetReadBuffer(receiveBuffer),
		c.SetOption(netlink.CapAcknowledge, true),
	)
}
