package rtnl

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The functions of this file use ioctls, which any socket of the namespace
// accepts, so no second socket is needed. Generic netlink has ethtool's commands
// only since kernel 5.6.

// Driver returns the name of an interface's driver, such as "vmxnet3". A virtual
// interface has its kind as the driver's name, such as "veth".
func (c *Conn) Driver(name string) (string, error) {
	info, err := unix.IoctlGetEthtoolDrvinfo(c.nl.FD(), name)
	if err != nil {
		return "", fmt.Errorf("get the driver of %s: %w", name, err)
	}
	return unix.ByteSliceToString(info.Driver[:]), nil
}

// TxChecksum reports whether the interface computes the checksums of the packets
// that it sends. A VXLAN device has one such feature, which ethtool calls
// tx-checksum-ip-generic.
func (c *Conn) TxChecksum(name string) (bool, error) {
	value, err := c.ethtool(name, unix.ETHTOOL_GTXCSUM, 0)
	if err != nil {
		return false, fmt.Errorf("get the transmit checksum offload of %s: %w", name, err)
	}
	return value != 0, nil
}

// SetTxChecksum turns TxChecksum on or off. The kernel reports a change by a
// notification about the link (NETDEV_FEAT_CHANGE).
func (c *Conn) SetTxChecksum(name string, on bool) error {
	if _, err := c.ethtool(name, unix.ETHTOOL_STXCSUM, uint32(boolByte(on))); err != nil {
		return fmt.Errorf("set the transmit checksum offload of %s to %t: %w", name, on, err)
	}
	return nil
}

// SettleCarrier returns when the kernel has acted on the interface's carrier. When
// a carrier comes or goes, a worker of the kernel does the rest some time later:
// only then does the interface send what it is given, and only then does a bridge
// forward for a port. Asking for the carrier does the worker's job for this interface
// (ethtool_op_get_link in net/ethtool/ioctl.c).
func (c *Conn) SettleCarrier(name string) error {
	if _, err := c.ethtool(name, unix.ETHTOOL_GLINK, 0); err != nil {
		return fmt.Errorf("settle the carrier of %s: %w", name, err)
	}
	return nil
}

// ethtoolValue is struct ethtool_value (linux/ethtool.h).
type ethtoolValue struct{ cmd, data uint32 }

// ethtoolRequest is struct ifreq with a pointer in its union. On 64-bit machines
// the union is 24 bytes long.
type ethtoolRequest struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [24 - unsafe.Sizeof(uintptr(0))]byte
}

// ethtool runs a command that takes one number and returns one number. x/sys has
// no function for the commands used here.
func (c *Conn) ethtool(name string, cmd, data uint32) (uint32, error) {
	value := ethtoolValue{cmd: cmd, data: data}
	request := ethtoolRequest{data: unsafe.Pointer(&value)}
	if len(name) >= len(request.name) {
		return 0, unix.ENODEV // otherwise the truncated name would be looked up
	}
	copy(request.name[:], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(c.nl.FD()), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	runtime.KeepAlive(&value)
	if errno != 0 {
		return 0, errno
	}
	return value.data, nil
}
