package plugin

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/ipam"
)

// Plugin does the commands. Results go to Out.
type Plugin struct {
	Out io.Writer
}

// Funcs are the commands as the skeleton takes them. Their errors are
// *types.Error.
func (p Plugin) Funcs() skel.CNIFuncs {
	return skel.CNIFuncs{
		Add:    func(a *skel.CmdArgs) error { return toCNI(p.add(a)) },
		Del:    func(a *skel.CmdArgs) error { return toCNI(p.del(a)) },
		Check:  func(a *skel.CmdArgs) error { return toCNI(p.check(a)) },
		GC:     func(a *skel.CmdArgs) error { return toCNI(p.gc(a)) },
		Status: func(a *skel.CmdArgs) error { return toCNI(p.status(a)) },
	}
}

// call is one run of the plugin for one attachment.
type call struct {
	conf   *conf
	args   *skel.CmdArgs
	key    ipam.Key
	store  *ipam.Store
	kernel *bridge.Kernel
}

func newCall(args *skel.CmdArgs) (*call, error) {
	c, err := parseConf(args.StdinData)
	if err != nil {
		return nil, err
	}
	return c.call(args)
}

func (c *conf) call(args *skel.CmdArgs) (*call, error) {
	kernel, err := bridge.Open()
	if err != nil {
		return nil, err
	}
	return &call{
		conf: c, args: args, kernel: kernel, store: ipam.Open(c.RunDir),
		key: ipam.Owner{ContainerID: args.ContainerID, IfName: args.IfName}.Key(),
	}, nil
}

func (p Plugin) add(args *skel.CmdArgs) error {
	c, err := newCall(args)
	if err != nil {
		return err
	}
	defer c.kernel.Close()
	// Before the wait for the daemon: without a namespace there is no use in it.
	netns, err := openNetns(c.kernel, args.Netns)
	if err != nil {
		return err
	}
	defer netns.Close()
	net, err := c.conf.network(c.conf.limit())
	if err != nil {
		return err
	}
	a, err := c.store.Lock(c.key)
	if err != nil {
		return err
	}
	defer func() { _ = a.Close() }()
	if !a.Fresh() {
		// The runtime gave up on an earlier ADD, or never saw its result.
		if err := errors.Join(c.dismantle(a), a.Reset()); err != nil {
			return err
		}
	}
	err = c.attach(a, netns, net, p.Out)
	if err != nil {
		return errors.Join(err, c.remove(a))
	}
	return nil
}

// attach reserves, records, connects and prints, in this order: see package
// ipam for why a crash at any point is mended.
func (c *call) attach(a *ipam.Attachment, netns *os.File, net network, out io.Writer) error {
	req, err := c.conf.request(c.args.Args)
	if err != nil {
		return err
	}
	addrs, err := a.Reserve(net.sets, req.addresses)
	if err != nil {
		return err
	}
	port := c.newPort(net, req, addrs)
	err = a.Write(ipam.Record{
		Network: c.conf.Name, ContainerID: c.args.ContainerID, IfName: c.args.IfName, Pod: req.pod, Netns: c.args.Netns, HostName: port.HostName,
		MAC: port.MAC.String(), MTU: port.MTU, Bridge: net.bridge.Name, HostPorts: req.rawPorts,
	})
	if err != nil {
		return err
	}
	index, err := c.kernel.Ensure(net.bridge)
	if err != nil {
		return err
	}
	if port.Routes, err = c.kernel.Attach(netns, index, net.bridge, port); err != nil {
		return err
	}
	if req.limits != (bridge.Limits{}) {
		if err := c.kernel.Shape(port, c.key.ShaperName(), req.limits); err != nil {
			return err
		}
	}
	if err := c.openPorts(net, addrs, req.ports); err != nil {
		return err
	}
	if len(c.conf.PrevResult) > 0 {
		return c.conf.writeAfter(out, net, port, c.args.Netns)
	}
	return c.conf.write(out, net, port, c.args.Netns)
}

// remove undoes all that an ADD does. The addresses go last, so that nobody
// gets one that is still in use.
func (c *call) remove(a *ipam.Attachment) error {
	if err := c.dismantle(a); err != nil {
		return err
	}
	return a.Release()
}

// dismantle removes what the kernel has of an attachment.
func (c *call) dismantle(a *ipam.Attachment) error {
	ports, err := c.closePorts(a)
	if ports != nil {
		// Last: after a deletion the kernel lets the socket's closing wait for
		// what the deletion of the devices waits for too.
		defer ports.Close()
	}
	return errors.Join(err, c.kernel.Detach(c.key.Devices()...))
}

func (p Plugin) del(args *skel.CmdArgs) error {
	conf, err := parseForRemoval(args.StdinData)
	if err != nil {
		return err
	}
	c, err := conf.call(args)
	if err != nil {
		return err
	}
	defer c.kernel.Close()
	a, err := c.store.LockForRemoval(c.key)
	if errors.Is(err, fs.ErrNotExist) {
		return c.kernel.Detach(c.key.Devices()...)
	}
	if err != nil {
		return err
	}
	defer func() { _ = a.Close() }()
	return c.remove(a)
}

// openNetns opens a pod's network namespace, of which the one of k can't be
// one. The file's name is the path.
func openNetns(k *bridge.Kernel, path string) (*os.File, error) {
	refuse := func(why string) (*os.File, error) {
		return nil, types.NewError(types.ErrInvalidNetNS, fmt.Sprintf("CNI_NETNS %q %s", path, why), "")
	}
	// Not os.Open, which would also ask the poller about it.
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
