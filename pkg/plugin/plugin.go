package plugin

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/pods"
	"github.com/overlay-cni/overlay-cni/pkg/shaper"
	"github.com/overlay-cni/overlay-cni/pkg/veth"
)

// call is one run of the plugin for one attachment.
type call struct {
	*invocation
	key    attachment.Key
	store  *attachment.Store
	kernel *bridge.Kernel
}

func newCall(in *invocation) (*call, error) {
	kernel, err := bridge.Open()
	if err != nil {
		return nil, err
	}
	return &call{
		invocation: in, kernel: kernel, store: in.conf.store(),
		key: attachment.Owner{ContainerID: in.containerID, IfName: in.ifName}.Key(),
	}, nil
}

func (p Plugin) add(in *invocation) error {
	c, err := newCall(in)
	if err != nil {
		return err
	}
	defer c.kernel.Close()
	// First: without a namespace it makes no sense to wait for the daemon.
	netns, err := openNetns(veth.On(c.kernel), c.netns)
	if err != nil {
		return err
	}
	defer netns.Close()
	net, err := c.conf.settings(c.conf.limit())
	if err != nil {
		return err
	}
	c.store.WhenLost(func() (map[netip.Addr]attachment.User, error) { return pods.InUse(c.kernel, c.store, net.contains) })
	a, err := c.store.Lock(c.key)
	if err != nil {
		return err
	}
	defer func() { _ = a.Close() }()
	if !a.Fresh() {
		// The runtime gave up on an earlier ADD, or never saw its result.
		if err := c.clear(a); err != nil {
			return err
		}
	}
	err = c.attach(a, netns, net, p.Out)
	if errors.Is(err, errLeftover) || errors.Is(err, veth.ErrPortTaken) {
		// An earlier ADD of this attachment left something, and its record is lost.
		if err = a.ForgetRecord(); err == nil {
			err = c.clear(a)
		}
		if err == nil {
			err = c.attach(a, netns, net, p.Out)
		}
	}
	if err != nil {
		return errors.Join(err, c.remove(a))
	}
	return nil
}

// clear makes an attachment Fresh again: it removes what an earlier ADD made, and
// then frees the addresses.
func (c *call) clear(a *attachment.Attachment) error {
	if err := pods.Dismantle(c.kernel, c.key, a); err != nil {
		return err
	}
	return a.Reset()
}

// attach reserves addresses, records the attachment, connects the pod, and prints
// the result. The order lets a DEL mend a crash at any point: see package
// attachment.
func (c *call) attach(a *attachment.Attachment, netns *os.File, net settings, out io.Writer) error {
	req, err := c.conf.request(c.args)
	if err != nil {
		return err
	}
	// An ADD that could not print its result has to fail before it connects
	// anything.
	if _, err := c.conf.resultBefore(); err != nil {
		return err
	}
	if err := checkFamilies(req.ports, net.gateways()); err != nil {
		return err
	}
	addrs, err := c.reserve(a, net.sets, req.addresses)
	if err != nil {
		return err
	}
	port := c.newPort(net, req, addrs)
	record := attachment.Record{
		CNINetwork: c.conf.Name, ContainerID: c.containerID, IfName: c.ifName, Pod: req.pod, Netns: c.netns, HostName: port.HostName,
		MAC: port.MAC.String(), MTU: port.MTU, Bridge: net.bridge.Name, HostPorts: req.rawPorts, Guarded: c.conf.guards(),
	}
	if err := a.Write(record); err != nil {
		return err
	}
	index, err := c.kernel.Add(net.bridge)
	if err != nil {
		return err
	}
	rules, err := c.guard(a, record, net, port)
	if rules != nil {
		defer rules.Close()
	}
	if err != nil {
		return err
	}
	if port.Routes, err = veth.On(c.kernel).Add(netns, index, net.bridge, port); err != nil {
		return err
	}
	if req.limits != (shaper.Limits{}) {
		if err := shaper.Add(shaper.Port{Link: port.HostName, Shaper: c.key.ShaperName(), MTU: port.MTU}, req.limits); err != nil {
			return err
		}
	}
	if err := c.openPorts(rules, net, addrs, req.ports); err != nil {
		return err
	}
	result, err := c.conf.result(net, port, c.netns)
	if err != nil {
		return err
	}
	return result.PrintTo(out)
}

// reserve reserves addresses. If it finds none, it frees the addresses that no pod
// has any more, and tries once more.
func (c *call) reserve(a *attachment.Attachment, sets []ipam.RangeSet, asked []netip.Addr) ([]netip.Addr, error) {
	addrs, err := a.Reserve(sets, asked)
	if !errors.Is(err, ipam.ErrExhausted) && !errors.Is(err, ipam.ErrTaken) {
		return addrs, err
	}
	if failed := errors.Join(a.Reset(), pods.FreeUnused(c.kernel, c.store)); failed != nil {
		return nil, errors.Join(err, failed)
	}
	return a.Reserve(sets, asked)
}

// remove undoes an ADD.
func (c *call) remove(a *attachment.Attachment) error { return pods.Remove(c.kernel, c.key, a) }

func (p Plugin) del(in *invocation) error {
	c, err := newCall(in)
	if err != nil {
		return err
	}
	defer c.kernel.Close()
	a, err := c.store.LockForRemoval(c.key)
	if errors.Is(err, fs.ErrNotExist) {
		return pods.RemoveLost(c.kernel, c.key.HostName())
	}
	if err != nil {
		return err
	}
	defer func() { _ = a.Close() }()
	return c.remove(a)
}

// openNetns opens a pod's network namespace, which can't be the host's. The name of
// the file is the path.
func openNetns(k *veth.Kernel, path string) (*os.File, error) {
	refuse := func(why string) (*os.File, error) {
		return nil, types.NewError(types.ErrInvalidNetNS, fmt.Sprintf("CNI_NETNS %q %s", path, why), "")
	}
	// os.Open would offer the file to the poller first, which costs system calls.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return refuse("does not exist: the container is gone, or the runtime named the wrong path")
	case err != nil:
		return refuse("can't be opened: " + err.Error())
	}
	f := os.NewFile(uintptr(fd), path)
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		_ = f.Close()
		return refuse("is not a network namespace")
	}
	if same, err := k.InNetns(f); same || err != nil {
		_ = f.Close()
		return refuse("is the host's own network namespace, not a pod's")
	}
	return f, nil
}
