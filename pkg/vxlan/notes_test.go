package vxlan

import (
	"strings"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What may drop the tunnel's packets, and may be there on purpose, stays and is told
// of. The kernel reports none of it, so it is told after a resync.
func TestNotes(t *testing.T) {
	t.Parallel()
	f := families()[0]
	h := newHost(t).withUnderlay("192.168.77.1/24")
	want := h.want(f.underlay, f.node(1), f.nodes(2)...)
	h.sync(want)
	notes := func() string {
		h.k.ForceResync()
		if changes := h.sync(want); len(changes) > 0 {
			t.Errorf("changed %s", changes)
		}
		return strings.Join(h.k.Notes(), "; ")
	}
	if n := notes(); n != "" {
		t.Errorf("a new device has the notes %q", n)
	}
	overlay := h.link("overlay0")
	root := netlink.QdiscAttrs{LinkIndex: overlay.Attrs().Index, Parent: netlink.HANDLE_ROOT}
	ingress := netlink.QdiscAttrs{LinkIndex: overlay.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}
	for _, tt := range []struct {
		name string
		on   func()
		off  func()
		want string
	}{
		{"a queue", func() { h.must(h.nl.QdiscReplace(&netlink.PfifoFast{QdiscAttrs: root})) },
			func() { h.must(h.nl.QdiscDel(&netlink.PfifoFast{QdiscAttrs: root})) }, "qdisc pfifo_fast"},
		{"filters", func() { h.must(h.nl.QdiscAdd(&netlink.GenericQdisc{QdiscAttrs: ingress, QdiscType: "clsact"})) },
			func() { h.must(h.nl.QdiscDel(&netlink.GenericQdisc{QdiscAttrs: ingress, QdiscType: "clsact"})) }, "qdisc clsact"},
		{"an XDP program", func() { h.attachXDP(overlay, passXDP(t)) }, func() { h.attachXDP(overlay, -1) }, "XDP program"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.on()
			if n := notes(); !strings.Contains(n, "overlay0 has ") || !strings.Contains(n, tt.want) {
				t.Errorf("the notes are %q", n)
			}
			tt.off()
			if n := notes(); n != "" {
				t.Errorf("the notes are still %q", n)
			}
		})
	}
}

func (h *host) attachXDP(l netlink.Link, fd int) {
	h.t.Helper()
	// netlink.Handle has no such method.
	h.in(func() error { return netlink.LinkSetXdpFdWithFlags(l, fd, 2) }) //nolint:forbidigo // XDP_FLAGS_SKB_MODE
}

// passXDP loads an XDP program that lets all packets pass (bpf(2)).
func passXDP(t *testing.T) int {
	t.Helper()
	const load, typeXDP = 5, 6              // BPF_PROG_LOAD, BPF_PROG_TYPE_XDP
	program := []uint64{2<<32 | 0xb7, 0x95} // r0 = XDP_PASS; exit
	licence := []byte("MIT\x00")
	attr := struct {
		typ, count        uint32
		program, licence  uint64
		logLevel, logSize uint32
		log               uint64
	}{typ: typeXDP, count: 2, program: uint64(uintptr(unsafe.Pointer(&program[0]))), licence: uint64(uintptr(unsafe.Pointer(&licence[0])))}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, load, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		t.Fatalf("load an XDP program: %v", errno)
	}
	t.Cleanup(func() { _ = unix.Close(int(fd)) })
	return int(fd)
}
