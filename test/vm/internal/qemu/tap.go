package qemu

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// plug makes the machine's end of a cable and plugs the other one into a bridge.
// The device ends when its file is closed.
func plug(wire *sandbox.Netns, bridge, name string) (*os.File, error) {
	tap, err := newTap(wire, name)
	if err == nil {
		if err = attach(wire, bridge, name); err == nil {
			return tap, nil
		}
		_ = tap.Close() // nothing was written
	}
	return nil, fmt.Errorf("make device %s: %w", name, err)
}

// newTap makes a tap device with room for the offloads that virtio knows.
func newTap(wire *sandbox.Netns, name string) (tap *os.File, err error) {
	err = wire.Do(func() error {
		// Not os.OpenFile: it would ask the device whether it can be polled,
		// before it is one.
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open /dev/net/tun: %w: root can, where the module tun is loaded", err)
		}
		tap = os.NewFile(uintptr(fd), name)
		request, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	})
	if err != nil && tap != nil {
		_ = tap.Close()
	}
	return tap, err
}

func attach(wire *sandbox.Netns, bridge, name string) error {
	h, err := wire.Handle()
	if err != nil {
		return err
	}
	defer h.Close()
	master, err := h.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", bridge, err)
	}
	tap, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	if err := h.LinkSetMaster(tap, master); err != nil {
		return err
	}
	return h.LinkSetUp(tap)
}
