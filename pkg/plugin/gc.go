package plugin

import (
	"errors"
	"io/fs"
	"net/netip"

	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/pods"
)

// gc removes the attachments of this network that the runtime doesn't know, and
// what is left of attachments whose record is lost.
func (p Plugin) gc(in *invocation) error {
	conf := in.conf
	valid, err := parseValidAttachments(conf.Valid)
	if err != nil {
		return err
	}
	kernel, err := bridge.Open()
	if err != nil {
		return err
	}
	defer kernel.Close()
	s := sweep{network: conf.Name, bridge: conf.bridgeName(), store: conf.store(), kernel: kernel, keep: map[attachment.Key]bool{}}
	for _, v := range valid {
		s.keep[attachment.Owner{ContainerID: v.ContainerID, IfName: v.IfName}.Key()] = true
	}
	return s.run()
}

// sweep removes attachments.
type sweep struct {
	network string
	bridge  string
	store   *attachment.Store
	kernel  *bridge.Kernel
	keep    map[attachment.Key]bool
}

// run goes on if one removal fails, and joins the errors.
func (s sweep) run() error {
	// Ports are listed before attachments. ADD makes the attachment's file before the
	// veth pair, so a port without a file is lost and not new.
	ports, err := s.kernel.Ports(s.bridge)
	if err != nil {
		return err
	}
	entries, err := s.store.List()
	if err != nil {
		return err
	}
	known := map[string]bool{}
	var errs []error
	for k := range s.keep {
		known[k.HostName()] = true
	}
	for _, e := range entries {
		known[e.Key.HostName()] = true
		if !s.keep[e.Key] {
			errs = append(errs, s.remove(e.Key))
		}
	}
	for _, port := range ports {
		if attachment.DevicesOf(port) != nil && !known[port] {
			errs = append(errs, pods.RemoveLost(s.kernel, port))
		}
	}
	_, err = s.store.FreeLost(func(k attachment.Key) bool { return s.keep[k] }, func(k attachment.Key, a netip.Addr) (bool, error) { return pods.EndUse(s.kernel, k, a) })
	return errors.Join(append(errs, err, pods.EndHolds(s.kernel, s.store))...)
}

// remove removes an attachment of this network. An attachment without a usable
// record may belong to any network, so remove deletes it only if its veth pair
// does not exist: then no pod uses the attachment.
func (s sweep) remove(k attachment.Key) error {
	a, err := s.store.TryLock(k)
	if errors.Is(err, attachment.ErrBusy) || errors.Is(err, fs.ErrNotExist) {
		return nil // an ADD or DEL takes care of it
	}
	if err != nil {
		return err
	}
	defer func() { _ = a.Close() }()
	r, found, err := a.Record()
	if found && err == nil && r.CNINetwork != s.network {
		return nil
	}
	if !found || err != nil {
		// The network is unknown. If a pod uses the attachment, its DEL will come.
		if there, err := s.kernel.Exists(k.HostName()); there || err != nil {
			return err
		}
	}
	return pods.Remove(s.kernel, k, a)
}
