package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The functions of this file use socket options and ioctls, which don't wait for
// the RTNL lock. Netlink does wait for it, and every configuration of an
// interface, in any namespace, holds the lock.

// Index returns the index of an interface. The error is unix.ENODEV if there is
// none of that name, and unix.EINVAL if the name is too long.
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

// absent returns unix.ENODEV if there is no interface of that name. If there is
// none, an ioctl would make the kernel run modprobe for a module of that name
// and wait for modprobe (dev_load in net/core/dev_ioctl.c). Binding a socket to
// an interface looks the name up and does no more. Another error, such as EPERM,
// says nothing about the interface. Binding has no effect on a netlink socket,
// and is undone.
func (c *Conn) absent(name string) unix.Errno {
	if len(name) >= unix.IFNAMSIZ {
		return unix.EINVAL // otherwise the truncated name would be looked up
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

// LinkByIoctl is Link without Master and Kind, and with the lower 16 bits of
// Flags. It fails as Index does.
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

// ifreq is struct ifreq (linux/if.h).
type ifreq struct {
	name   [unix.IFNAMSIZ]byte
	answer [24]byte
}

// ask sends an ioctl and returns the union of struct ifreq, in host byte order.
func (c *Conn) ask(name string, cmd uintptr) ([24]byte, unix.Errno) {
	var request ifreq
	copy(request.name[:], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(c.nl.FD()), cmd, uintptr(unsafe.Pointer(&request)))
	return request.answer, errno
}
