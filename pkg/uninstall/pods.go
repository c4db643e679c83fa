package uninstall

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/pods"
)

// allowed is an error if there are pods and nobody said that they may go.
func (c cleaner) allowed() error {
	if c.Force {
		return nil
	}
	links, err := c.podLinks()
	if err != nil || len(links) == 0 {
		return err
	}
	entries, err := c.store.List()
	if err != nil {
		return err
	}
	names := slices.Clone(links)
	for _, e := range entries {
		if i := slices.Index(names, e.Key.HostName()); i >= 0 && e.Record.Pod != "" {
			names[i] = e.Record.Pod
		}
	}
	slices.Sort(names)
	const shown = 5
	if more := len(names) - shown; more > 0 {
		names = append(names[:shown], fmt.Sprintf("and %d more", more))
	}
	return fmt.Errorf("%w: %s: delete them first, or say --force, which leaves them without a network", ErrPods, strings.Join(names, ", "))
}

// podLinks are the host's ends of pods' veth pairs: what is on record, and what
// is on the bridge under a name of ours, for records go with the run directory.
func (c cleaner) podLinks() ([]string, error) {
	entries, err := c.store.List()
	if err != nil {
		return nil, err
	}
	links, err := c.ourPorts()
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name := e.Key.HostName()
		if there, err := c.bridge.Exists(name); err != nil {
			return nil, err
		} else if there && !slices.Contains(links, name) {
			links = append(links, name)
		}
	}
	return links, nil
}

// ourPorts are the bridge's ports that have names of pods'. A bridge that is
// something else has none.
func (c cleaner) ourPorts() ([]string, error) {
	ports, err := c.bridge.Ports(c.Bridge)
	if errors.Is(err, bridge.ErrUnmanaged) {
		return nil, nil
	}
	return slices.DeleteFunc(ports, func(name string) bool { return attachment.DevicesOf(name) == nil }), err
}

// pods takes off the network whatever pods are left, if only on record.
func (c cleaner) pods() error {
	entries, err := c.store.List()
	errs := []error{err}
	for _, e := range entries {
		errs = append(errs, c.pod(e))
	}
	ports, err := c.ourPorts()
	for _, name := range ports {
		c.done("port " + name)
		err = errors.Join(err, c.bridge.Remove(attachment.DevicesOf(name)...))
	}
	return errors.Join(append(errs, err)...)
}

func (c cleaner) pod(e attachment.Entry) error {
	a, err := c.store.TryLock(e.Key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		defer func() { _ = a.Close() }()
		err = pods.Remove(c.bridge, e.Key, a)
	}
	if err != nil {
		return fmt.Errorf("take pod %s off the network: %w", e.Key, err)
	}
	c.done(fmt.Sprintf("pod %s %v", e.Key, e.Record.Addresses))
	return nil
}
