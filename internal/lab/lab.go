package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// Names within the lab.
const (
	switchName = "switch" // the namespace and its bridge
	uplink     = "eth0"   // a host's interface to the switch
)

// Config says what a lab is made of.
type Config struct {
	// Dir takes the lab's files: logs, run directories, the registry.
	Dir string
	// Prefix begins the names of the lab's namespaces, so that there can be
	// several labs in one sandbox.
	Prefix string
	// Segments are the switch's own addresses on the wire that joins the hosts,
	// with the prefix length, at most one a family: 192.168.77.254/24. Hosts
	// count from the start of it, and have the switch as their router.
	Segments []netip.Prefix
	// Outside are further addresses of the switch, off the segment. It has no
	// route to any pod, as the rest of the world.
	Outside []netip.Addr
	// PodNetworks are cut into a /24 (IPv4) or /64 (IPv6) for each host.
	PodNetworks []netip.Prefix
	// MTU of the wire.
	MTU int
	// Daemon and Plugin are the paths of the programs. A lab without overlayd
	// or pods needs none.
	Daemon, Plugin string
	// DaemonArgs are added to the command line of every overlayd.
	DaemonArgs []string
}

// Lab is a switch and the hosts on it. Its methods are not safe for concurrent
// use.
type Lab struct {
	config Config
	wire   *stack
	hosts  map[string]*Host
	made   int // hosts ever added: numbers are not used again
}

// New makes the switch.
func New(c Config) (*Lab, error) {
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the lab's folder: %w", err)
	}
	wire, err := newStack(c.Prefix + switchName)
	if err != nil {
		return nil, err
	}
	l := &Lab{config: c, wire: wire, hosts: map[string]*Host{}}
	err = errors.Join(
		wire.addBridge(switchName, c.MTU),
		wire.addAddrs(switchName, c.Segments),
		wire.addAddrs("lo", hosts(c.Outside)),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make the lab's switch: %w", err), l.Close())
	}
	return l, nil
}

// Switch is the network namespace of the switch, which is the outside world to
// pods.
func (l *Lab) Switch() *sandbox.Netns { return l.wire.ns }

// Segments are the switch's addresses on the wire.
func (l *Lab) Segments() []netip.Prefix { return l.config.Segments }

// Outside are the switch's addresses off the segment.
func (l *Lab) Outside() []netip.Addr { return l.config.Outside }

// Host returns the host of that name, or nil.
func (l *Lab) Host(name string) *Host { return l.hosts[name] }

// RegistryFile is the YAML file of nodes that all overlayds read.
func (l *Lab) RegistryFile() string { return filepath.Join(l.config.Dir, "nodes.yaml") }

// AddHost puts one more host on the switch. It is not in the registry yet and
// runs nothing.
func (l *Lab) AddHost(name string) (*Host, error) {
	if l.hosts[name] != nil {
		return nil, fmt.Errorf("add host %q: there is one of this name", name)
	}
	net, err := newStack(l.config.Prefix + name)
	if err != nil {
		return nil, err
	}
	l.made++
	h := &Host{Name: name, lab: l, net: net, plan: planHost(l.config, l.made), pods: map[string]*Pod{}}
	l.hosts[name] = h
	if err := l.plugIn(h); err != nil {
		return nil, errors.Join(fmt.Errorf("add host %q: %w", name, err), h.Remove())
	}
	return h, nil
}

func (l *Lab) plugIn(h *Host) error {
	err := l.wire.addCable(cable{bridge: switchName, port: h.Name, peer: h.net, peerName: uplink, mtu: l.config.MTU})
	if err != nil {
		return err
	}
	return errors.Join(
		h.net.addAddrs(uplink, h.plan.underlay),
		h.net.addDefaultRoutes(uplink, addrs(l.config.Segments)),
		os.MkdirAll(h.RunDir(), 0o755),
	)
}

// Close kills every daemon and deletes every namespace. Files stay.
func (l *Lab) Close() error {
	var errs []error
	for _, h := range l.hosts {
		errs = append(errs, h.Remove())
	}
	return errors.Join(append(errs, l.wire.Close())...)
}
