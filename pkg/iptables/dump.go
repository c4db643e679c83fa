package iptables

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"unsafe"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sys/unix"
)

// dump is a table of ip_tables as the kernel gives it: its rules, of all
// chains, one after another. Offsets are from the first rule.
type dump struct {
	layout layout
	info   info
	rules  []byte
}

// info is struct ipt_getinfo of linux/netfilter_ipv4/ip_tables.h, which is the
// same for IPv6. Hooks are indexed by NF_INET_*.
type info struct {
	Name       [32]byte
	ValidHooks uint32
	// HookEntry is where a built-in chain begins, and Underflow its policy,
	// which is its last rule.
	HookEntry, Underflow [5]uint32
	NumEntries           uint32
	Size                 uint32
}

// getEntries is struct ipt_get_entries without the rules, which follow.
type getEntries struct {
	Name [32]byte
	Size uint32
	_    uint32 // rules are aligned to 8 bytes
}

// Options of getsockopt, the same for both families.
const (
	getInfoOption    = 64 // IPT_SO_GET_INFO
	getEntriesOption = 65 // IPT_SO_GET_ENTRIES
)

// layout is in what the families' rules differ: struct ipt_entry and ip6t_entry.
// Of each rule come, in this order: what a packet is compared with, 4 unused
// bytes, the offsets of the target and of the next rule (2 bytes each), what
// the kernel writes, the matches, the target.
type layout struct {
	names  string // file with the names of the tables that there are
	domain int
	level  int // of the options
	match  int // bytes that a packet is compared with
	header int // bytes before the matches
}

func layoutOf(f Family) layout {
	return map[Family]layout{
		IPv4: {names: "ip_tables_names", domain: unix.AF_INET, level: unix.SOL_IP, match: 84, header: 112},
		IPv6: {names: "ip6_tables_names", domain: unix.AF_INET6, level: unix.SOL_IPV6, match: 136, header: 168},
	}[f]
}

// offsets is where a rule has its two offsets.
func (l layout) offsets() int { return l.match + 4 }

// written is where those bytes of a rule begin that the kernel changes without
// the rule being changed: its counters. They end with the header.
func (l layout) written() int { return l.offsets() + 4 }

// Limits of the size of a table that is read, in bytes. Of a larger one it is
// only known how large it is.
const (
	sizeOnly   = 0
	smallTable = 64 << 10 // some 300 rules
	anySize    = math.MaxUint32
)

// readAttempts is how often a table is read that changes in between.
const readAttempts = 10

// readDump returns nil if there is no such table. It looks first, because
// asking for a table makes it. The rules of a table beyond the limit are left
// out.
func readDump(f Family, table string, limit uint32) (*dump, error) {
	l := layoutOf(f)
	present, err := l.present(table)
	if err != nil || !present {
		return nil, err
	}
	doing := fmt.Sprintf("read table %s of ip_tables", table)
	fd, err := unix.Socket(l.domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, failed(doing, err)
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written that could be lost
	for range readAttempts {
		var d *dump
		if d, err = l.read(fd, table, limit); !errors.Is(err, unix.EAGAIN) {
			if err != nil {
				return nil, failed(doing, err)
			}
			return d, nil
		}
	}
	return nil, failed(doing, err)
}

// present tells whether the namespace of the calling thread has the table.
func (l layout) present(table string) (bool, error) {
	names, err := os.ReadFile("/proc/thread-self/net/" + l.names)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil // nor is the module loaded
	}
	if err != nil {
		return false, fmt.Errorf("list the tables of ip_tables: %w: only root may", err)
	}
	for line := range bytes.Lines(names) {
		if string(bytes.TrimSpace(line)) == table {
			return true, nil
		}
	}
	return false, nil
}

// read asks for the size and then for the rules; the kernel answers EAGAIN if
// the table has another size by then.
func (l layout) read(fd int, table string, limit uint32) (*dump, error) {
	d := &dump{layout: l}
	copy(d.info.Name[:], table)
	if _, err := getsockopt(fd, l.level, getInfoOption, structBytes(&d.info)); err != nil || d.info.Size > limit {
		return d, err
	}
	request := getEntries{Name: d.info.Name, Size: d.info.Size}
	answer := append(bytes.Clone(structBytes(&request)), make([]byte, d.info.Size)...)
	n, err := getsockopt(fd, l.level, getEntriesOption, answer)
	if err != nil {
		return nil, err
	}
	d.rules = answer[unsafe.Sizeof(request):n]
	return d, nil
}

// structBytes is the memory of v, which must not have pointers.
func structBytes[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}

// getsockopt passes the value in, and returns how much of it was filled.
// x/sys has no such call for values of any size.
func getsockopt(fd, level, option int, value []byte) (int, error) {
	size := uint32(len(value))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(unsafe.SliceData(value))), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, errno
	}
	return min(int(size), len(value)), nil
}

// each calls visit with every rule and its offset until that returns false. It
// stops at what is not a rule.
func (d *dump) each(visit func(offset int, rule []byte) bool) {
	for offset := 0; offset+d.layout.header <= len(d.rules); {
		rest := d.rules[offset:]
		next := int(binary.NativeEndian.Uint16(rest[d.layout.offsets()+2:]))
		if next < d.layout.header || next > len(rest) || !visit(offset, rest[:next]) {
			return
		}
		offset += next
	}
}

// sum stands for the table: its sizes, and its rules without their counters. An
// alteration that changes no size is only seen where the rules were read.
func (d *dump) sum() uint64 {
	h := xxhash.New()
	_, _ = h.Write(structBytes(&d.info)) // a hash takes everything
	d.each(func(_ int, rule []byte) bool {
		_, _ = h.Write(rule[:d.layout.written()])
		_, _ = h.Write(rule[d.layout.header:])
		return true
	})
	return h.Sum64()
}

// mentions tells whether the table has a chain of the name. It is one of the
// few texts in it; a comment of the very same text would count, too.
func (d *dump) mentions(chain string) bool {
	return bytes.Contains(d.rules, append([]byte(chain), 0))
}

// drops tells whether what gets to the end of FORWARD is dropped, by its policy
// or by a rule that makes no difference between packets.
func (d *dump) drops() bool {
	const hook = 2 // NF_INET_FORWARD
	verdict := passes
	d.each(func(offset int, rule []byte) bool {
		if offset >= int(d.info.HookEntry[hook]) && offset <= int(d.info.Underflow[hook]) {
			verdict = d.layout.verdict(rule)
		}
		return verdict == passes && offset < int(d.info.Underflow[hook])
	})
	return verdict == dropped
}

// verdict is what a rule does with every packet.
type verdict int

const (
	passes verdict = iota // or some get past it
	accepted
	dropped
)

// verdict looks for rules without conditions: nothing to compare, no match.
func (l layout) verdict(rule []byte) verdict {
	const nameAt, nameEnd, valueAt = 2, 31, 32 // in struct xt_standard_target
	const drop, accept = -1, -2                // -NF_DROP - 1, -NF_ACCEPT - 1
	target := int(binary.NativeEndian.Uint16(rule[l.offsets():]))
	if target != l.header || target+valueAt+4 > len(rule) || len(bytes.Trim(rule[:l.match], "\x00")) > 0 {
		return passes
	}
	name := string(bytes.TrimRight(rule[target+nameAt:target+nameEnd], "\x00"))
	value := int32(binary.NativeEndian.Uint32(rule[target+valueAt:]))
	switch {
	case name == "REJECT", name == "" && value == drop:
		return dropped
	case name == "" && value == accept:
		return accepted
	}
	return passes
}
