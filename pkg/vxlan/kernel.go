package vxlan

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/network"
	"github.com/overlay-cni/overlay-cni/internal/nl"
	"github.com/overlay-cni/overlay-cni/internal/rtnl"
)

// Kernel reads and changes the device in one network namespace. Its methods may
// be called from several goroutines.
type Kernel struct {
	conn *rtnl.Conn
	// peers is the number of routes at the last reading: a hint for the size of
	// the maps.
	peers int

	mu      sync.Mutex
	notices *rtnl.Notices
	// expected holds what the last Sync was asked for.
	expected expected
	// reread makes the next Sync read all entries. It is false only after a Sync
	// that read them, found nothing to do, and heard of no change since.
	reread bool
	// look makes the next Sync look for what Notes returns.
	look  bool
	notes []string
}

// Open opens the sockets of a Kernel in the network namespace of the calling
// thread.
func Open() (*Kernel, error) {
	conn, err := rtnl.Open()
	if err != nil {
		return nil, err
	}
	notices, err := rtnl.Subscribe(unix.RTNLGRP_NEIGH)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &Kernel{conn: conn, notices: notices, reread: true, look: true}, nil
}

// Close frees the sockets. It leaves everything in the kernel as it is.
func (k *Kernel) Close() error { return errors.Join(k.conn.Close(), k.notices.Close()) }

// ErrPeers is for errors that are about peers alone: the device is in order.
var ErrPeers = errors.New("peers are incomplete")

// Sync turns the kernel's state into want, which nobody may modify afterwards.
// It returns what it changed, even if it also returns an error. One operation
// that fails doesn't stop the others, and the error joins the errors of all. The
// error wraps ErrPeers if the device itself is in order and single entries are
// not, and ErrNotOurs if somebody else owns a device of that name, which Sync
// leaves alone.
//
// Sync reads the device and its addresses every time, and everything on the
// device only for a reason (see the package's description).
func (k *Kernel) Sync(want State) (changes []string, err error) {
	done, err := k.sync(want)
	return done.describe(), err
}

func (k *Kernel) sync(want State) (Changes, error) {
	if want.Device.Name == "" {
		return nil, errors.New("sync the vxlan device: the desired state has no device")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	done, device, err := k.syncDevice(want)
	if device.Device.Index == 0 {
		k.reread = true
		return done, err
	}
	if k.look {
		k.lookAround(device.Device)
		k.look = false
	}
	if !k.reread && len(done) == 0 && k.expected.Device.Index == device.Device.Index && k.expected.sameEntries(want) {
		return nil, err
	}
	entries, failed := k.syncEntries(want, device)
	if err == nil { // otherwise the device's error may be the cause
		err = failed
	}
	return append(done, entries...), err
}

// entryRounds bounds how often Sync reads and changes what is on the device.
// The second round matters only after an ambiguous operation.
const entryRounds = 3

// syncEntries turns the entries on the device, and our routes over other
// interfaces, into those of want. It clears reread once it has read everything
// and found nothing to do. The error wraps ErrPeers unless the entries could not
// be read.
func (k *Kernel) syncEntries(want, device State) (done Changes, err error) {
	k.reread = true
	for range entryRounds {
		have, err := k.withEntries(device)
		if err != nil {
			return done, err
		}
		ops := planEntries(want, have)
		k.reread, k.expected = len(ops) > 0, expect(want, device.Device)
		again := slices.ContainsFunc(ops, Op.ambiguous)
		changed, err := k.apply(ops, device.Device.Index)
		done = append(done, changed...)
		if err != nil {
			return done, fmt.Errorf("sync vxlan device %q: %w: %w", want.Device.Name, ErrPeers, err)
		}
		if !again {
			return done, nil
		}
	}
	return done, nil
}

// ambiguous reports whether the kernel may change another object than the one
// that was read. If several routes have the same destination, the kernel
// replaces the first of them, even another program's, and deletes any that
// matches.
func (o Op) ambiguous() bool {
	return o.Unexpected != nil || o.Verb == SetRoute && o.Text != ""
}

// ForceResync makes the next Sync read everything. It is due from time to time,
// because some changes may go unreported.
func (k *Kernel) ForceResync() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reread, k.look = true, true
}

// deviceRounds bounds how often Sync reads and changes the device. A new device
// needs three rounds: for itself, for its addresses, and to see that all is
// well. After more rounds something else must be undoing the changes.
const deviceRounds = 6

// syncDevice brings the device itself and its addresses into shape and returns
// both as read last. It reads them again after every change, because a change
// has effects on the device: the kernel flushes the device when its MAC address
// changes, for example.
//
// It drains the pending notifications before it reads, because the reading
// includes everything that they report.
func (k *Kernel) syncDevice(want State) (Changes, State, error) {
	var done Changes
	for range deviceRounds {
		if _, err := k.poll(); err != nil {
			return done, State{}, err
		}
		have, err := k.readDevice(want.Device)
		if err == nil {
			err = refuse(want.Device, have.Device)
		}
		if err != nil {
			return done, State{}, err
		}
		ops, _ := planDevice(want, have)
		if len(ops) == 0 {
			ops = planAddresses(want, have)
		}
		if len(ops) == 0 {
			return done, have, nil
		}
		if err := enableIPv6(want.Device.Name, ops); err != nil {
			return done, have, err
		}
		changed, err := k.apply(ops, have.Device.Index)
		if len(changed) == 0 {
			return done, have, k.explain(want.Device, err)
		}
		done = append(done, changed...)
	}
	return done, State{}, fmt.Errorf("vxlan device %q does not keep its settings, so another program must be changing it: %s",
		want.Device.Name, strings.Join(done.describe(), ", "))
}

// explain is the error about a device that could not be set up.
func (k *Kernel) explain(want Device, failed error) error {
	const fix = "set vxlan.vni or vxlan.port to another value, on all hosts"
	err := fmt.Errorf("set up vxlan device %q: %w", want.Name, failed)
	if errors.Is(failed, unix.EOPNOTSUPP) {
		return fmt.Errorf("%w: where the kernel lacks VXLAN, load the module vxlan", err)
	}
	if !errors.Is(failed, unix.EEXIST) && !errors.Is(failed, unix.EADDRINUSE) {
		return err
	}
	rivals, _ := k.rivals(want)
	if len(rivals) == 0 {
		return fmt.Errorf("%w: UDP port %d is taken by another program (see \"ss -lun\") or by a vxlan device that was moved to another network namespace: %s",
			err, want.Tunnel.Port, fix)
	}
	r := rivals[0]
	return fmt.Errorf("%w: device %q has VNI %d and port %d: remove it with \"ip link del %s\", or %s",
		err, r.Name, r.Tunnel.VNI, r.Tunnel.Port, r.Name, fix)
}

// rivals are the other devices with the same port, those with the same VNI first.
func (k *Kernel) rivals(want Device) ([]Device, error) {
	var found []Device
	err := k.eachDevice(func(d Device) {
		switch {
		case d.Name == want.Name || d.Tunnel.Port != want.Tunnel.Port:
		case d.Tunnel.VNI == want.Tunnel.VNI:
			found = slices.Insert(found, 0, d)
		default:
			found = append(found, d)
		}
	})
	return found, err
}

// Remove deletes the device of that name, with everything on it, and the direct
// routes. It returns what it deleted, even if it also returns an error. It
// leaves a device without our alias alone (ErrNotOurs). A device that is absent
// is no error.
func (k *Kernel) Remove(name string) (changes []string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reread = true
	have, err := k.read(Device{Name: name, Alias: network.Default.TunnelAlias()})
	if err != nil {
		return nil, err
	}
	ops, refused := planRemove(name, have)
	done, err := k.apply(ops, 0)
	return done.describe(), errors.Join(refused, err)
}

// apply carries out operations. It returns those that the kernel carried out or
// found done, and the errors of the others. If an operation did not have the
// planned effect, the next Sync reads all entries again.
func (k *Kernel) apply(ops []Op, index int) (Changes, error) {
	if len(ops) == 0 {
		return nil, nil
	}
	var b rtnl.Batch
	requests := make([]*nl.Request, len(ops))
	for i := range ops {
		requests[i] = ops[i].request(&b, index)
	}
	if err := k.conn.Run(&b); err != nil && !isRefusal(err) {
		k.reread = true
		return nil, err
	}
	if err := k.setViaHostRoutes(ops, requests, index); err != nil {
		return nil, err
	}
	done := make(Changes, 0, len(ops))
	var failed []error
	for i := range ops {
		if err := k.result(&ops[i], requests[i]); err != nil {
			failed = append(failed, k.explainOp(ops[i], err))
			continue
		}
		done = append(done, ops[i])
	}
	return done, summary(failed)
}

// isRefusal reports whether the kernel refused single operations. Otherwise the
// socket failed.
func isRefusal(err error) bool {
	var refused *nl.Error
	return errors.As(err, &refused)
}

// result returns the error of an operation. The transmit checksum offload has no
// request, because netlink does not set it.
func (k *Kernel) result(o *Op, r *nl.Request) error {
	if r == nil {
		return k.conn.SetTxChecksum(o.Device.Name, o.Device.TxChecksum)
	}
	if !r.Done() {
		k.reread = true // the state changed after it was read
	}
	return r.Err()
}

// explainOp adds to an error what an operator can do about it.
func (k *Kernel) explainOp(o Op, err error) error {
	if o.Verb != SetRoute || !errors.Is(err, unix.EEXIST) {
		return err
	}
	device := k.rival(o.Subnet)
	if strings.HasPrefix(device, "flannel") {
		return fmt.Errorf("%w: flannel's device %s has the route to it: see \"Leaving flannel\" in docs/install.md", err, device)
	}
	return fmt.Errorf("%w: another device has a route to it (ip route show %s): give that node another pod subnet, or remove the route from %s",
		err, o.Subnet, device)
}

// rival returns the name of the device that has another program's route to a subnet.
func (k *Kernel) rival(subnet netip.Prefix) string {
	var routes []rtnl.RouteEntry
	err := k.conn.EachRoute(family.Of(subnet.Addr()), 0, func(r rtnl.RouteEntry) {
		if r.Dst == subnet && r.Table == unix.RT_TABLE_MAIN {
			routes = append(routes, r)
		}
	})
	name := "that device"
	if err == nil && len(routes) > 0 {
		_ = k.conn.EachLink("", func(l rtnl.LinkEntry) {
			if routes[0].Uses(l.Attrs().Index) {
				name = l.Attrs().Name
			}
		})
	}
	return name
}

// summary joins the first few errors, since they tend to be alike. It leaves out
// missing devices, which follow from another error.
func summary(failed []error) error {
	const shown = 5
	if len(failed) > 1 {
		rest := slices.DeleteFunc(failed[1:], func(err error) bool { return errors.Is(err, unix.ENODEV) })
		failed = failed[:1+len(rest)]
	}
	if more := len(failed) - shown; more > 0 {
		failed = append(failed[:shown], fmt.Errorf("and %d more operations failed", more))
	}
	return errors.Join(failed...)
}
