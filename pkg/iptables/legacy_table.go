package iptables

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
)

// This file asks the kernel about iptables-legacy's table filter without running
// a program: whether the table changed, and where the program is missing,
// whether FORWARD drops.

// layout holds what differs between the families' system calls and rules. A rule is a
// struct ipt_entry or ip6t_entry of linux/netfilter_ipv{4,6}/ip{,6}_tables.h. It
// consists of struct ipt_ip or ip6t_ip (the conditions), 4 unused bytes, the offset of
// the target and the offset of the next rule (2 bytes each), fields that the kernel
// writes, the matches and the target.
type layout struct {
	names       string // file that lists the tables of ip_tables
	domain      int
	level       int // of the socket's options
	match       int // bytes that a packet is compared with
	matchesFrom int // offset of the matches
}

func layoutOf(f family.Family) layout {
	if f == family.IPv4 {
		return layout{names: "ip_tables_names", domain: unix.AF_INET, level: unix.SOL_IP, match: 84, matchesFrom: 112}
	}
	return layout{names: "ip6_tables_names", domain: unix.AF_INET6, level: unix.SOL_IPV6, match: 136, matchesFrom: 168}
}

// legacyInfo is struct ipt_getinfo of linux/netfilter_ipv4/ip_tables.h, which
// ip6_tables shares. The arrays are indexed by NF_INET_*.
type legacyInfo struct {
	Name       [32]byte
	ValidHooks uint32
	// HookEntry is the offset of a built-in chain's first rule, Underflow the offset of
	// its last rule. The last rule is the chain's policy.
	HookEntry, Underflow [5]uint32
	NumEntries           uint32
	Size                 uint32 // of all rules, in bytes
}

// Options of getsockopt, the same for both families.
const (
	getInfo    = 64 // IPT_SO_GET_INFO
	getEntries = 65 // IPT_SO_GET_ENTRIES
)

// filterInfo describes the table filter. It returns the zero value for a namespace
// without that table. filterInfo looks first whether the table exists, because a
// request for its description would create it.
func filterInfo(f family.Family) (legacyInfo, error) {
	var info legacyInfo
	l := layoutOf(f)
	names, err := os.ReadFile("/proc/thread-self/net/" + l.names)
	if errors.Is(err, os.ErrNotExist) {
		return info, nil // ip_tables is not loaded
	}
	if err != nil {
		return info, fmt.Errorf("list the tables of ip_tables: %w: run as root", err)
	}
	if !slices.Contains(strings.Fields(string(names)), filterTable) {
		return info, nil
	}
	copy(info.Name[:], filterTable)
	return info, l.getsockopt(getInfo, unsafe.Slice((*byte)(unsafe.Pointer(&info)), unsafe.Sizeof(info)))
}

// legacyRules are the rules of all chains, one after another.
type legacyRules struct {
	layout layout
	info   legacyInfo
	bytes  []byte
}

// filterRules reads the rules of the table that info describes. A table that
// changed its size meanwhile gives EAGAIN.
func filterRules(f family.Family, info legacyInfo) (legacyRules, error) {
	const header = 40 // struct ipt_get_entries: name, size, padding to 8 bytes
	answer := make([]byte, header+info.Size)
	copy(answer, info.Name[:])
	binary.NativeEndian.PutUint32(answer[len(info.Name):], info.Size)
	l := layoutOf(f)
	return legacyRules{layout: l, info: info, bytes: answer[header:]}, l.getsockopt(getEntries, answer)
}

// getsockopt passes the value in and has it filled. x/sys has no such call for
// values of any size.
func (l layout) getsockopt(option int, value []byte) error {
	fd, err := unix.Socket(l.domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return failed("open a socket to ip_tables", err)
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written that could be lost
	size := uint32(len(value))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(l.level), uintptr(option),
		uintptr(unsafe.Pointer(unsafe.SliceData(value))), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return failed("read table filter of ip_tables", errno)
	}
	return nil
}

// mentions reports whether there is a chain of the name. A comment with the same text
// counts too.
func (r legacyRules) mentions(chain string) bool {
	return bytes.Contains(r.bytes, append([]byte(chain), 0))
}

// drops reports whether FORWARD drops the packets that reach its end, by its policy or
// by a rule without conditions.
func (r legacyRules) drops() bool {
	const forward = 2 // NF_INET_FORWARD
	last := int(r.info.Underflow[forward])
	for at := int(r.info.HookEntry[forward]); at <= last; {
		rule := r.at(at)
		if rule == nil {
			return false
		}
		if v := r.layout.verdict(rule); v != undecided {
			return v == dropped
		}
		at += len(rule)
	}
	return false
}

// at returns the rule at an offset, or nil for bytes that are no rule.
func (r legacyRules) at(offset int) []byte {
	if offset+r.layout.matchesFrom > len(r.bytes) {
		return nil
	}
	rest := r.bytes[offset:]
	next := int(binary.NativeEndian.Uint16(rest[r.layout.match+6:]))
	if next < r.layout.matchesFrom || next > len(rest) {
		return nil
	}
	return rest[:next]
}

// verdict is what a rule does with every packet.
type verdict int

const (
	undecided verdict = iota // some packets get past the rule
	accepted
	dropped
)

// verdict returns the verdict of a rule without conditions and matches, and undecided
// for all other rules.
func (l layout) verdict(rule []byte) verdict {
	const nameAt, nameEnd, valueAt = 2, 31, 32 // in struct xt_standard_target
	const drop, accept = -1, -2                // -NF_DROP - 1, -NF_ACCEPT - 1
	target := int(binary.NativeEndian.Uint16(rule[l.match+4:]))
	if target != l.matchesFrom || target+valueAt+4 > len(rule) || len(bytes.Trim(rule[:l.match], "\x00")) > 0 {
		return undecided
	}
	name := string(bytes.TrimRight(rule[target+nameAt:target+nameEnd], "\x00"))
	value := int32(binary.NativeEndian.Uint32(rule[target+valueAt:]))
	switch {
	case name == "REJECT", name == "" && value == drop:
		return dropped
	case name == "" && value == accept:
		return accepted
	}
	return undecided
}
