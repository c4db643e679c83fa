package uninstall

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/cnifiles"
	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/hostport"
	"github.com/overlay-cni/overlay-cni/pkg/iptables"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/vxlan"
)

// cleaner is an uninstall under way.
type cleaner struct {
	Host
	bridge *bridge.Kernel
	store  *attachment.Store
	done   func(string)
}

// note tells of what was removed, and of which part an error is.
func (c cleaner) note(what string, removed bool, err error) error {
	if removed {
		c.done(what)
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", what, err)
	}
	return nil
}

func (c cleaner) config() error {
	c.Config.Content = cnifiles.Conflist(c.RunDir)
	removed, err := c.Config.Remove()
	for _, path := range removed {
		c.done(path)
	}
	return c.note("the network configuration", false, err)
}

func (c cleaner) program() error {
	removed, err := c.Program.Remove()
	return c.note(c.Program.Path, removed, err)
}

// rules removes what masquerades and filters. A kernel without nf_tables has
// none of its tables.
func (c cleaner) rules() error {
	changes, err := firewall.New().Remove()
	chains, chainsErr := iptables.New().Remove()
	for _, change := range chains {
		c.done(change)
	}
	return errors.Join(
		c.note("table inet "+firewall.TableName, len(changes) > 0, err),
		c.note("iptables chains", false, chainsErr))
}

// ports removes the table of host ports. Each pod's went with the pod.
func (c cleaner) ports() error {
	k, err := hostport.Open()
	removed := false
	if err == nil {
		defer k.Close()
		removed, err = k.Remove()
	}
	if errors.Is(err, hostport.ErrUnsupported) {
		return nil
	}
	return c.note("table inet "+hostport.TableName, removed, err)
}

// tunnel removes the VXLAN device and all routes of ours. Somebody else's
// device under that name is none of our business.
func (c cleaner) tunnel() error {
	k, err := vxlan.Open()
	if err != nil {
		return err
	}
	defer func() { _ = k.Close() }()
	had, _ := c.bridge.Exists(c.Device)
	_, err = k.Remove(c.Device)
	if errors.Is(err, vxlan.ErrNotOurs) {
		return nil
	}
	return c.note("device "+c.Device, had && err == nil, err)
}

// network removes the bridge, unless another program has ports on it.
func (c cleaner) network() error {
	ports, err := c.bridge.Ports(c.Bridge)
	if there, _ := c.bridge.Exists(c.Bridge); !there || errors.Is(err, bridge.ErrUnmanaged) {
		return nil
	}
	what := "bridge " + c.Bridge
	if err == nil && len(ports) > 0 {
		err = fmt.Errorf("it has ports that are not ours, and was left: %s: remove them first", strings.Join(ports, ", "))
	}
	if err == nil {
		err = c.bridge.Remove(c.Bridge)
	}
	return c.note(what, err == nil, err)
}

// runDir removes what is ours, and the directory if that was all.
func (c cleaner) runDir() error {
	errs := []error{c.store.RemoveAll(), nodestate.Remove(c.RunDir)}
	halves, _ := filepath.Glob(filepath.Join(c.RunDir, ".*.next")) // what a crash left
	for _, half := range halves {
		errs = append(errs, os.Remove(half))
	}
	if err := errors.Join(errs...); err != nil {
		return c.note(c.RunDir, false, err)
	}
	err := os.Remove(c.RunDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return c.note(c.RunDir, err == nil, err)
}
