package nft

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/nl"
)

// Conn is a socket to nf_tables of one network namespace. It is for one goroutine
// at a time.
type Conn struct {
	nl *nl.Conn
}

// Dial opens a socket in the network namespace of the calling thread.
func Dial() (*Conn, error) {
	c, err := nl.Dial(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, explain("reach nf_tables", err)
	}
	return &Conn{c}, nil
}

// Close closes the socket. After a deletion, Close takes about 20 ms: the kernel
// first frees the deleted objects, after an RCU grace period.
func (c *Conn) Close() { _ = c.nl.Close() }

const (
	// chunk is a number of answers that always fits into the socket's receive
	// buffer: each takes about 800 bytes of 208 KiB.
	chunk = 64
	// small is a size of operations, in bytes, that always fits into the send
	// buffer.
	small = 64 << 10
	// Buffers for longer transactions. An element takes 60 to 140 bytes to send, so
	// they are enough for 100,000 elements.
	largeSend    = 16 << 20
	largeReceive = 64 << 20
)

// AnyGeneration lets the kernel accept a transaction whatever the generation is.
const AnyGeneration = 0

// Commit carries out all operations or none. The generation is that of the
// tables from which the operations were computed, or AnyGeneration. The error is
// a *RefusedError if the kernel refused.
func (c *Conn) Commit(generation uint32, ops ...Op) error {
	if len(ops) == 0 {
		return nil
	}
	if len(ops) > chunk || size(ops) > small {
		c.nl.RaiseBuffers(largeSend, largeReceive)
	}
	messages := make([]nl.Message, 0, len(ops)+2)
	var begin nl.Attrs
	if generation != AnyGeneration {
		begin = begin.Uint32BE(unix.NFNL_BATCH_GENID, generation)
	}
	messages = append(messages, bound(unix.NFNL_MSG_BATCH_BEGIN, begin))
	for _, o := range ops {
		messages = append(messages, o.message())
	}
	// The kernel answers in order, so no answer follows the one to the last operation.
	messages[len(ops)].Flags |= unix.NLM_F_ACK
	messages = append(messages, bound(unix.NFNL_MSG_BATCH_END, nil))
	first, err := c.nl.Send(messages...)
	if err == nil {
		err = c.verdict(first, ops)
	}
	if err != nil {
		return explain("change "+ops[0].id.String(), err)
	}
	return nil
}

// size is how many bytes the operations' attributes have.
func size(ops []Op) int {
	n := 0
	for _, o := range ops {
		n += len(o.attrs)
	}
	return n
}

// bound is the message that begins or ends a transaction. The last two bytes of
// its header, big-endian, name the subsystem.
func bound(typ uint16, attrs nl.Attrs) nl.Message {
	return nl.Message{Type: typ, Body: append([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES}, attrs...)}
}

// verdict reads the answers to a transaction. The sequence number of the message
// that begins the transaction is first.
func (c *Conn) verdict(first uint32, ops []Op) error {
	const whole = -1 // the index of the message that begins the transaction
	var refused *RefusedError
	for done := false; !done; {
		err := c.nl.Receive(func(m nl.Message) {
			i := int(int32(m.Seq-first)) - 1
			if i < whole || i >= len(ops) || m.Type != unix.NLMSG_ERROR {
				return // a late answer to an abandoned exchange
			}
			if m.Errno() != 0 && refused == nil {
				refused = &RefusedError{Errno: m.Errno(), Hint: m.Hint()}
				if i != whole {
					refused.Op = &ops[i]
				}
			}
			// If the kernel refuses the whole transaction, no other answer may come.
			done = done || i == len(ops)-1 || i == whole
		})
		if err != nil {
			return err
		}
	}
	if refused != nil {
		return refused
	}
	return nil
}

// Generation returns the number of the last change to any table of the network
// namespace.
func (c *Conn) Generation() (uint32, error) {
	answers, err := c.ask([]nl.Message{generationRequest()})
	if err != nil {
		return 0, explain("ask nf_tables for its generation", err)
	}
	return generationIn(answers[0])
}

func generationRequest() nl.Message { return message(unix.AF_UNSPEC, unix.NFT_MSG_GETGEN, 0, nil) }

func generationIn(m nl.Message) (uint32, error) {
	errno := m.Errno()
	if errno == unix.EINVAL { // the answer of a kernel without nf_tables
		errno = unix.EOPNOTSUPP
	}
	if errno != 0 {
		return 0, explain("ask nf_tables for its generation", errno)
	}
	return m.Attrs(header).Get(unix.NFTA_GEN_ID).Uint32BE(), nil
}

// ask sends requests that have one answer each, and returns these in order.
func (c *Conn) ask(requests []nl.Message) ([]nl.Message, error) {
	first, err := c.nl.Send(requests...)
	if err != nil {
		return nil, err
	}
	answers := make([]nl.Message, len(requests))
	for missing := len(requests); missing > 0; {
		err := c.nl.Receive(func(m nl.Message) {
			if i := int(int32(m.Seq - first)); i >= 0 && i < len(requests) {
				m.Body = append([]byte(nil), m.Body...) // the buffer is used again
				answers[i] = m
				missing--
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return answers, nil
}

// Find looks elements up by their keys. It returns the elements that exist, with
// their data, and a generation that is at most as new as any of them. It works
// for sets of single keys only.
func (c *Conn) Find(id ID, elements []Element) (generation uint32, found []Element, err error) {
	for start := 0; start < len(elements); start += chunk {
		part := elements[start:min(start+chunk, len(elements))]
		g, some, err := c.findChunk(id, part)
		if err != nil {
			return 0, nil, explain("read "+id.String(), err)
		}
		if start == 0 {
			generation = g
		}
		found = append(found, some...)
	}
	return generation, found, nil
}

func (c *Conn) findChunk(id ID, elements []Element) (uint32, []Element, error) {
	requests := []nl.Message{generationRequest()}
	for _, e := range elements {
		requests = append(requests, message(id.Family, unix.NFT_MSG_GETSETELEM, 0, id.elements([]Element{e}, false)))
	}
	answers, err := c.ask(requests)
	if err != nil {
		return 0, nil, err
	}
	generation, err := generationIn(answers[0])
	if err != nil {
		return 0, nil, err
	}
	var found []Element
	for i, m := range answers[1:] {
		switch errno := m.Errno(); errno {
		case 0:
			found = append(found, elementsOf(Set{Name: elements[i].Set}, decodeBoundaries(m.Attrs(header)))...)
		case unix.ENOENT:
		default:
			return 0, nil, errno
		}
	}
	return generation, found, nil
}

// attempts bounds how often a read begins again because the rules changed
// meanwhile. A read takes less than a millisecond, 20 with 5,000 elements.
const attempts = 50

// Read returns the table, nil if it is absent, and its generation.
func (c *Conn) Read(id ID) (*Table, uint32, error) {
	var t *Table
	generation, err := c.consistently(func() (err error) {
		t, err = c.readTable(id)
		return err
	})
	if err != nil {
		return nil, 0, explain("read "+id.String(), err)
	}
	return t, generation, nil
}

// consistently calls read, which sends several requests. If any program changed
// rules meanwhile, the answers may not belong together, so consistently calls
// read again. It returns the generation of what was read.
func (c *Conn) consistently(read func() error) (uint32, error) {
	for range attempts {
		before, err := c.Generation()
		if err != nil {
			return 0, err
		}
		readErr := read()
		after, err := c.Generation()
		if err != nil {
			return 0, err
		}
		if before == after && !errors.Is(readErr, nl.ErrInterrupted) {
			return after, readErr
		}
	}
	return 0, ErrUnstable
}

func (c *Conn) readTable(id ID) (*Table, error) {
	answers, err := c.ask([]nl.Message{message(id.Family, unix.NFT_MSG_GETTABLE, 0, id.in())})
	if err != nil {
		return nil, err
	}
	switch errno := answers[0].Errno(); errno {
	case 0:
	case unix.ENOENT:
		return nil, nil
	default:
		return nil, errno
	}
	t := &Table{Flags: answers[0].Attrs(header).Get(unix.NFTA_TABLE_FLAGS).Uint32BE()}
	return t, errors.Join(c.readSets(id, t), c.readChains(id, t))
}

// list reads objects of the table. The kernel doesn't filter chains by table.
func (c *Conn) list(id ID, typ uint16, filter nl.Attrs, each func(nl.Attrs)) error {
	m := message(id.Family, typ, 0, filter)
	return c.nl.Dump(nl.Request{Type: m.Type, Body: m.Body, Op: "list " + id.String()}, func(m nl.Message) error {
		if a := m.Attrs(header); a.Get(tableName).Text() == id.Name {
			each(a)
		}
		return nil
	})
}

func (c *Conn) readSets(id ID, t *Table) error {
	var counts []uint32
	err := c.list(id, unix.NFT_MSG_GETSET, id.in(), func(a nl.Attrs) {
		const count = 20 // NFTA_SET_COUNT
		if s, ok := decodeSet(a); ok {
			t.Sets = append(t.Sets, s)
			counts = append(counts, a.Get(count).Uint32BE())
		}
	})
	for i, s := range t.Sets {
		all, readErr := c.readElements(id, s, int(counts[i]))
		t.Elements = append(t.Elements, all...)
		err = errors.Join(err, readErr)
	}
	return err
}

// readElements lists the elements of a set. A moment after elements were added,
// the kernel resizes its hash table; meanwhile a list lacks some elements and
// has others twice. Newer kernels report the number of elements, so readElements
// lists again until the number is right.
func (c *Conn) readElements(id ID, s Set, count int) ([]Element, error) {
	const lists = 10
	for n := 1; ; n++ {
		var all []boundary
		err := c.list(id, unix.NFT_MSG_GETSETELEM, id.inSet(s.Name), func(a nl.Attrs) {
			all = append(all, decodeBoundaries(a)...)
		})
		if err != nil {
			return nil, err
		}
		slices.SortFunc(all, boundary.compare)
		all = slices.Compact(all)
		if s.intervals() || count == 0 || len(all) == count || n == lists {
			return elementsOf(s, all), nil
		}
	}
}

func (c *Conn) readChains(id ID, t *Table) error {
	chains := map[string]int{}
	err := c.list(id, unix.NFT_MSG_GETCHAIN, id.in(), func(a nl.Attrs) {
		if ch, ok := decodeChain(a); ok {
			chains[ch.Name] = len(t.Chains)
			t.Chains = append(t.Chains, ch)
		}
	})
	return errors.Join(err, c.list(id, unix.NFT_MSG_GETRULE, id.in(), func(a nl.Attrs) {
		if i, ok := chains[a.Get(unix.NFTA_RULE_CHAIN).Text()]; ok {
			t.Chains[i].Rules = append(t.Chains[i].Rules, decodeRule(a))
		}
	}))
}

// ReadChain returns one chain with its rules, of whatever table, without reading the
// table's other chains. It is nil if there is no such chain.
func (c *Conn) ReadChain(id ID, name string) (*Chain, error) {
	answers, err := c.ask([]nl.Message{message(id.Family, unix.NFT_MSG_GETCHAIN, 0,
		id.in().Text(unix.NFTA_CHAIN_NAME, name))})
	doing := fmt.Sprintf("read chain %s of %s", name, id)
	if err != nil {
		return nil, explain(doing, err)
	}
	switch errno := answers[0].Errno(); errno {
	case 0:
	case unix.ENOENT:
		return nil, nil
	default:
		return nil, explain(doing, errno)
	}
	ch, _ := decodeChain(answers[0].Attrs(header))
	filter := id.in().Text(unix.NFTA_RULE_CHAIN, name)
	err = c.list(id, unix.NFT_MSG_GETRULE, filter, func(a nl.Attrs) {
		ch.Rules = append(ch.Rules, decodeRule(a))
	})
	if err != nil {
		return nil, explain(doing, err)
	}
	return &ch, nil
}
