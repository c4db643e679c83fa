package uninstall

import (
	"cmp"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/network"
	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/cnifiles"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

// Host says where things are.
type Host struct {
	RunDir string
	// Names win over what the daemon told the plugin when it last ran, and that
	// over Configured, which may have been changed since, or have had a flag
	// beside it.
	Names
	Configured Names
	Program    cnifiles.Program
	Config     cnifiles.Config
	// Force takes pods off the network, too.
	Force bool
}

// Names are those of the interfaces that the daemon makes, each empty if it is
// not known.
type Names struct{ Bridge, Device string }

// The daemon's defaults, for a host of which nothing is known.
const (
	defaultBridge = "cni0"
	defaultDevice = "overlay0"
)

// ErrPods says that there are pods, and that nothing was removed.
var ErrPods = errors.New("pods of this host are on the network")

// Clean removes everything. It calls done for each thing that it removed; after
// nil there is nothing left. The network namespace is that of the calling
// thread, and only a daemon that ended doesn't make everything anew.
func (h Host) Clean(done func(what string)) error {
	sole, err := claim()
	if err != nil {
		return err
	}
	defer sole.Close()
	published, _ := nodestate.Last(h.RunDir) // there may be none
	h.Bridge = cmp.Or(h.Bridge, published.Bridge, h.Configured.Bridge, defaultBridge)
	h.Device = cmp.Or(h.Device, published.Device, h.Configured.Device, defaultDevice)
	k, err := bridge.Open()
	if err != nil {
		return err
	}
	defer k.Close()
	c := cleaner{Host: h, bridge: k, store: attachment.Open(h.RunDir, network.Default), done: done}
	if err := c.allowed(); err != nil {
		return err
	}
	var errs []error
	for _, step := range []func() error{c.config, c.pods, c.rules, c.tunnel, c.ports, c.network, c.runDir, c.program} {
		errs = append(errs, step())
	}
	return errors.Join(errs...)
}

// claim takes the place that the daemon holds while it runs (daemon.Run).
func claim() (net.Listener, error) {
	sole, err := net.Listen("unix", "@overlay-cni/overlayd")
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, errors.New("overlayd runs on this host (in this network namespace), and would make everything anew: stop it first")
	}
	if err != nil {
		return nil, fmt.Errorf("look whether overlayd runs: %w", err)
	}
	return sole, nil
}
