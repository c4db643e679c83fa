package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What follows is asked by socket options and ioctls since these don't wait for
// the lock which is held while others configure interfaces, in whatever namespace,
// as netlink does.

// Index looks up the index of an interface. If there is none of that name the
// error is unix.ENODEV; for a name that is too long, unix.EINVAL.
func (c *Conn) Index(name string) (int, error) {
	errno := c.absent(name)
	var answer [24]byte
	if errno == 0 {
		answer, errno = c.ask(name, unix.SIOCGIFINDEX)
	}
	if errno != 0 {
		return 0, fmt.Errorf("look up the index of link %s: %w", name, errno)
	}
	return int(binary.NativeEndian.Uint32(answer[:])), nil
}

// absent returns unix.ENODEV if there is no interface of that name. An ioctl
// would have the kernel look for a module of the name first, by a process for
// which it waits (dev_load in net/core/dev_ioctl.c). To bind a socket to an
// interface it just looks. Any other answer, such as that this isn't allowed, says
// nothing. Binding means nothing to a netlink socket, and is undone.
func (c *Conn) absent(name string) unix.Errno {
	if len(name) >= unix.IFNAMSIZ {
		return unix.EINVAL // else a part of the name would be looked up
	}
	err := unix.BindToDevice(c.nl.FD(), name)
	if errors.Is(err, unix.ENODEV) {
		return unix.ENODEV
	}
	if err == nil {
		_ = unix.BindToDevice(c.nl.FD(), "")
	}
	return 0
}

// LinkByIoctl is Link without master and kind, and with the flags that there were
// first, the lower 16. Errors are those of Index.
func (c *Conn) LinkByIoctl(name string) (Link, error) {
	link := Link{Name: name}
	if errno := c.absent(name); errno != 0 {
		return Link{}, fmt.Errorf("look up link %s: %w", name, errno)
	}
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
	copy(q.name[:], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(c.nl.FD()), cmd, uintptr(unsafe.Pointer(&q)))
	return q.answer, errno
}
