package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/network"
	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/cnifiles"
	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/flannel"
	"github.com/overlay-cni/overlay-cni/pkg/iprule"
	"github.com/overlay-cni/overlay-cni/pkg/iptables"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/part"
	"github.com/overlay-cni/overlay-cni/pkg/pods"
	"github.com/overlay-cni/overlay-cni/pkg/routes"
	"github.com/overlay-cni/overlay-cni/pkg/vxlan"
)

// The names of parts that others need.
const (
	partBridge    = "bridge"
	partTunnel    = "tunnel"
	partRoutes    = "routes"
	partSysctls   = "sysctls"
	partFirewall  = "firewall"
	partIPTables  = "iptables"
	partPublished = "published state"
)

// The rounds in which the daemon syncs the parts.
const (
	// RoundNetwork follows the registry and the configuration.
	RoundNetwork = "network"
	// RoundPods follows the published state and the pods' own files alone, so that
	// it needs no registry. Of the desired state it uses the bridge.
	RoundPods = "pods"
)

// Host is a network namespace and a run directory.
type Host struct {
	runDir   string
	bridge   *bridge.Kernel
	vxlan    *vxlan.Kernel
	routes   *routes.Kernel
	rules    *iprule.Kernel
	firewall *firewall.Kernel
	iptables *iptables.Kernel
	pods     *pods.Host
	flannel  *flannel.Kernel
	store    *attachment.Store
	conflist watchedFile
}

// Open opens the network namespace of the calling thread.
func Open(runDir string) (*Host, error) {
	h := &Host{
		runDir: runDir, store: attachment.Open(runDir, network.Default),
		firewall: firewall.New(network.Default), iptables: iptables.New(),
	}
	if err := h.open(); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

func (h *Host) open() (err error) {
	if h.bridge, err = bridge.Open(); err != nil {
		return err
	}
	if h.vxlan, err = vxlan.Open(); err != nil {
		return err
	}
	if h.routes, err = routes.Open(vxlan.OwnProtocol); err != nil {
		return err
	}
	if h.rules, err = iprule.Open(); err != nil {
		return err
	}
	if h.flannel, err = flannel.Open(); err != nil {
		return err
	}
	h.pods, err = pods.Open(h.runDir)
	return err
}

// Close closes what is open.
func (h *Host) Close() {
	h.firewall.Close()
	h.iptables.Close()
	if h.pods != nil {
		h.pods.Close()
	}
	if h.rules != nil {
		_ = h.rules.Close()
	}
	if h.routes != nil {
		_ = h.routes.Close()
	}
	if h.flannel != nil {
		h.flannel.Close()
	}
	if h.vxlan != nil {
		_ = h.vxlan.Close()
	}
	if h.bridge != nil {
		h.bridge.Close()
	}
}

// Parts returns everything that a host has, in the order in which it is made.
//
// The bridge comes before the tunnel. If another host gets a subnet that was this
// host's, the kernel refuses the route to that host as long as the bridge has an
// address of the subnet. The network configuration comes last, because the runtime
// creates pods as soon as it exists.
func (h *Host) Parts() []part.Part[Desired] {
	return append(h.networkParts(), h.guardPart(), h.hostPortsPart(), h.podsPart(), h.conflistPart(), h.flannelPart())
}

func (h *Host) networkParts() []part.Part[Desired] {
	return slices.Concat(h.deviceParts(), h.routingParts(), h.publishedParts())
}

func (h *Host) deviceParts() []part.Part[Desired] {
	return []part.Part[Desired]{{
		Name: "run directory", Round: RoundNetwork,
		// What can't be written is the error of whoever writes it.
		Minor:  func(err error) bool { return !errors.Is(err, ErrRunDirGone) },
		Sync:   func(Desired) ([]string, error) { return nil, checkRunDir(h.runDir) },
		Remove: func(was Desired) ([]string, error) { return h.removeRunDir(was.Bridge.Name) },
	}, {
		Name: partBridge, Round: RoundNetwork,
		Sync:   func(want Desired) ([]string, error) { return h.bridge.Sync(want.Bridge) },
		Remove: func(was Desired) ([]string, error) { return h.removeBridge(was.Bridge.Name) },
	}, {
		// It comes before the tunnel: a peer's packets are let in before others go there.
		Name: partFirewall, Round: RoundNetwork,
		// Packets that are tracked pass as well.
		Minor:       func(err error) bool { return errors.Is(err, firewall.ErrTracked) },
		Sync:        func(want Desired) ([]string, error) { return h.firewall.Sync(want.Firewall) },
		Remove:      func(Desired) ([]string, error) { return h.removeFirewall() },
		ForceResync: h.firewall.ForceResync,
	}, {
		Name: partTunnel, Round: RoundNetwork,
		// An incomplete peer is no reason to keep this host's pods out.
		Minor:       func(err error) bool { return errors.Is(err, vxlan.ErrPeers) },
		Sync:        func(want Desired) ([]string, error) { return h.vxlan.Sync(want.Tunnel) },
		Remove:      func(was Desired) ([]string, error) { return h.removeTunnel(was.Tunnel.Device.Name) },
		ForceResync: h.vxlan.ForceResync,
		Notes:       h.vxlan.Notes,
		Watch:       h.vxlan.Watch,
	}}
}

// routingParts are what leads packets to pods and lets them pass.
func (h *Host) routingParts() []part.Part[Desired] {
	return []part.Part[Desired]{{
		Name: partRoutes, Round: RoundNetwork,
		// The routes are the bridge's, and are compared with the tunnel's.
		Needs:       []string{partBridge},
		Minor:       func(err error) bool { return errors.Is(err, routes.ErrPart) },
		Sync:        func(want Desired) ([]string, error) { return h.routes.Sync(want.Routes) },
		ForceResync: h.routes.ForceResync,
		Watch:       h.routes.Watch,
	}, {
		Name: "rules", Round: RoundNetwork,
		// Pods talk to each other in spite of most of the rules that others have.
		Minor:  func(error) bool { return true },
		Sync:   func(want Desired) ([]string, error) { return h.rules.Sync(want.Rules) },
		Remove: func(Desired) ([]string, error) { return h.removeRules() },
	}, {
		Name: partSysctls, Round: RoundNetwork,
		// A device that could not be synced may be somebody else's.
		Needs: []string{partBridge, partTunnel},
		Sync:  func(want Desired) ([]string, error) { return want.Sysctls.sync() },
	}, {
		Name: partIPTables, Round: RoundNetwork,
		Sync:        func(want Desired) ([]string, error) { return h.iptables.Sync(want.IPTables) },
		Remove:      func(Desired) ([]string, error) { return h.removeIPTables() },
		ForceResync: h.iptables.ForceResync,
		Watch:       h.iptables.Watch,
	}}
}

func (h *Host) publishedParts() []part.Part[Desired] {
	return []part.Part[Desired]{{
		Name: "addresses in use", Round: RoundNetwork,
		// Two pods with one address are no reason to keep others out.
		Minor: func(error) bool { return true },
		Sync:  h.syncInUse,
	}, {
		Name: partPublished, Round: RoundNetwork,
		Needs: []string{partBridge, partTunnel, partRoutes, partSysctls, partFirewall, partIPTables},
		Sync:  func(want Desired) ([]string, error) { return nodestate.Sync(h.runDir, want.Published) },
		// Withdrawn, and not removed: an uninstall that is run again reads the names
		// of the devices there.
		Remove: func(Desired) ([]string, error) { return nil, nodestate.Withdraw(h.runDir) },
	}, {
		// For a daemon that finds its configuration broken. Only what has set up the
		// network is kept.
		Name: "kept configuration", Round: RoundNetwork,
		Needs:  []string{partPublished},
		Minor:  func(error) bool { return true },
		Sync:   func(want Desired) ([]string, error) { return config.Keep(h.runDir, want.Text) },
		Remove: func(Desired) ([]string, error) { return nil, config.Forget(h.runDir) },
	}}
}

// syncInUse reserves the addresses that are in use before the plugin may give any of
// these subnets. Afterwards the round for pods does so.
func (h *Host) syncInUse(want Desired) ([]string, error) {
	if slices.Equal(want.Given, want.Published.Subnets) && h.store.Addresses().Exist() {
		return nil, nil
	}
	return h.pods.SyncInUse(want.Bridge)
}

// guardPart comes before the pods' part, like the host ports.
func (h *Host) guardPart() part.Part[Desired] {
	return part.Part[Desired]{
		Name: "guard", Round: RoundPods,
		// Pods that can send with the addresses of others keep no pod out.
		Minor:  func(error) bool { return true },
		Sync:   func(want Desired) ([]string, error) { return h.pods.SyncGuard(want.Unguarded) },
		Remove: func(Desired) ([]string, error) { return h.pods.RemoveGuard() },
	}
}

// hostPortsPart comes before the pods' part, so that it is removed after it: each
// pod takes its host ports along.
func (h *Host) hostPortsPart() part.Part[Desired] {
	return part.Part[Desired]{
		Name: "host ports", Round: RoundPods,
		// A host port that can't be opened keeps no pod out.
		Minor:  func(error) bool { return true },
		Sync:   func(want Desired) ([]string, error) { return h.pods.SyncHostPorts(want.Bridge.Name) },
		Remove: func(Desired) ([]string, error) { return h.pods.RemoveHostPorts() },
	}
}

func (h *Host) podsPart() part.Part[Desired] {
	return part.Part[Desired]{
		Name: "pods", Round: RoundPods,
		// What is wrong with one pod keeps no other pod out.
		Minor:  func(error) bool { return true },
		Sync:   func(want Desired) ([]string, error) { return h.pods.Sync(want.Bridge) },
		Remove: func(was Desired) ([]string, error) { return h.pods.Remove(was.Bridge.Name) },
	}
}

// Pods returns the pods that are on the network: the name of each pod, or the host's
// end of its veth pair.
func (h *Host) Pods(bridge string) ([]string, error) { return h.pods.Names(bridge) }

func (h *Host) conflistPart() part.Part[Desired] {
	return part.Part[Desired]{
		Name: "network configuration", Round: RoundNetwork,
		Needs: []string{partPublished},
		// The runtime takes another configuration, but this host's network is in order.
		Minor:  func(err error) bool { return errors.Is(err, cnifiles.ErrShadowed) },
		Sync:   func(want Desired) ([]string, error) { return h.keepConflist(want.Conflist) },
		Watch:  h.conflist.watch,
		Remove: func(was Desired) ([]string, error) { return was.Conflist.Remove() },
	}
}

// flannelPart makes nothing: it tells of another network.
func (h *Host) flannelPart() part.Part[Desired] {
	return part.Part[Desired]{
		Name: "flannel", Round: RoundNetwork,
		Minor:       func(error) bool { return true },
		ForceResync: h.flannel.ForceResync,
		Sync: func(Desired) ([]string, error) {
			found, err := h.flannel.Find()
			return nil, errors.Join(err, found.Err())
		},
	}
}

// removeTunnel removes the tunnel device, unless a device of that name is not ours.
func (h *Host) removeTunnel(name string) ([]string, error) {
	had, err := h.bridge.Exists(name)
	if err != nil {
		return nil, err
	}
	_, err = h.vxlan.Remove(name)
	switch {
	case errors.Is(err, vxlan.ErrNotOurs):
		return nil, nil
	case err != nil || !had:
		return nil, err
	}
	return []string{"device " + name}, nil
}

func (h *Host) removeFirewall() ([]string, error) {
	changes, err := h.firewall.Remove()
	if len(changes) == 0 {
		return nil, err
	}
	return []string{"table inet " + firewall.TableName(network.Default)}, err
}

func (h *Host) removeRules() ([]string, error) {
	changes, err := h.rules.Remove()
	if len(changes) == 0 {
		return nil, err
	}
	return []string{"the rules of policy routing"}, err
}

func (h *Host) removeIPTables() ([]string, error) {
	changes, err := h.iptables.Remove()
	if len(changes) == 0 {
		return nil, err
	}
	return []string{"the rules in iptables"}, err
}

// removeBridge removes the bridge, unless the bridge is not ours. It returns an error
// if other programs have ports on the bridge.
func (h *Host) removeBridge(name string) ([]string, error) {
	there, err := h.bridge.Exists(name)
	if err != nil || !there {
		return nil, err
	}
	ports, err := h.bridge.Ports(name)
	switch {
	case errors.Is(err, bridge.ErrUnmanaged):
		return nil, nil
	case err != nil:
		return nil, err
	case len(ports) > 0:
		return nil, fmt.Errorf("%s still has ports of other programs: remove the ports first: %s", name, strings.Join(ports, ", "))
	}
	if err := h.bridge.Remove(name); err != nil {
		return nil, err
	}
	return []string{"bridge " + name}, nil
}

// removeRunDir removes what is ours, and the directory if nothing else is in it. If
// the bridge could not be removed, everything stays: the next uninstall finds the
// bridge's name there.
func (h *Host) removeRunDir(bridge string) ([]string, error) {
	if left, err := h.hasBridge(bridge); left || err != nil {
		return nil, err
	}
	errs := []error{h.store.RemoveAll(), nodestate.Remove(h.runDir)}
	halves, _ := filepath.Glob(filepath.Join(h.runDir, ".*.next")) // what a crash left
	for _, half := range halves {
		errs = append(errs, os.RemoveAll(half))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	err := os.Remove(h.runDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EROFS) {
		// A mount point, as in a container that has no more of the host than this
		// directory; where the container's own files are read-only, the kernel says so
		// first. It is empty now, and a reboot removes it.
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return []string{h.runDir}, nil
}

// hasBridge is false for a device of that name that is no bridge.
func (h *Host) hasBridge(name string) (bool, error) {
	there, err := h.bridge.Exists(name)
	if !there || err != nil {
		return false, err
	}
	_, err = h.bridge.Ports(name)
	if errors.Is(err, bridge.ErrUnmanaged) {
		return false, nil
	}
	return err == nil, err
}
