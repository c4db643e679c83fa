package rtnl

import (
	"encoding/binary"
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What follows is asked by ioctl since that doesn't wait for the lock which is
// held while others configure interfaces, in whatever namespace (dev_ioctl in
// net/core/dev_ioctl.c), as netlink does.

// Index looks up the index of an interface. If there is none of that name the
// error is unix.ENODEV; if none can have it, unix.EINVAL.
func (c *Conn) Index(name string) (int, error) {
	answer, errno := c.ask(name, unix.SIOCGIFINDEX)
	if errno != 0 {
		return 0, fmt.Errorf("look up the index of link %s: %w", name, errno)
	}
	return int(binary.NativeEndian.Uint32(answer[:])), nil
}

// Glance is Link without master and kind. Errors are those of Index.
func (c *Conn) Glance(name string) (Link, error) {
	link := Link{Name: name}
	for _, q := range []struct {
		cmd  uintptr
		take func(answer []byte)
	}{
		{unix.SIOCGIFINDEX, func(in []byte) { link.Index = int(binary.NativeEndian.Uint32(in)) }},
		{unix.SIOCGIFFLAGS, func(in []byte) { link.Flags = uint32(binary.NativeEndian.Uint16(in)) }},
		{unix.SIOCGIFMTU, func(in []byte) { link.MTU = int(binary.NativeEndian.Uint32(in)) }},
		{unix.SIOCGIFHWADDR, func(in []byte) { link.MAC = net.HardwareAddr(in[2:8]) }}, // struct sockaddr
	} {
		answer, errno := c.ask(name, q.cmd)
		if errno != 0 {
			return Link{}, fmt.Errorf("look up link %s: %w", name, errno)
		}
		q.take(answer[:])
	}
	return link, nil
}

// question is struct ifreq (linux/if.h).
type question struct {
	name   [unix.IFNAMSIZ]byte
	answer [24]byte
}

// ask returns the union of struct ifreq, in host order.
func (c *Conn) ask(name string, cmd uintptr) ([24]byte, unix.Errno) {
	var q question
	if len(name) >= len(q.name) {
		return q.answer, unix.EINVAL // else a part of the name would be looked up
	}
	copy(q.name[:], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(c.fd), cmd, uintptr(unsafe.Pointer(&q)))
	return q.answer, errno
}
