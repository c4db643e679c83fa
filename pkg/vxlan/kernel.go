package vxlan

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/rtnl"
)

// Kernel reads and changes the device in one network namespace. It is for one
// goroutine at a time, but for Watch.
type Kernel struct {
	conn *rtnl.Conn
	// peers is how many there were when the kernel was last read: a hint for
	// the size of the maps.
	peers int

	mu      sync.Mutex
	notices *rtnl.Notices
	// mirror is nil before the first Keep; goal is whose.
	mirror *mirror
	goal   *Goal
	// tell is what Watch calls, nil while nobody watches.
	tell func()
}

// Open works in the network namespace of the calling thread.
func Open() (*Kernel, error) {
	conn, err := rtnl.Open()
	if err != nil {
		return nil, err
	}
	notices, err := rtnl.Subscribe()
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &Kernel{conn: conn, notices: notices}, nil
}

// Close frees the sockets. It leaves everything in the kernel as it is.
func (k *Kernel) Close() error { return errors.Join(k.conn.Close(), k.notices.Close()) }

// ErrPeers is for errors that are about peers alone: the device is in order.
var ErrPeers = errors.New("peers are incomplete")

// deviceRounds is how often the device is looked at before something else must
// be undoing what was done to it. Three are needed for a new one: for itself,
// for its addresses, and to see that all is well.
const deviceRounds = 6

// syncDevice brings the device itself and its addresses into shape and returns
// them as they are then. It looks again after every change, because that changes
// what is on the device: the kernel flushes it when it gets another MAC
// address, say.
func (k *Kernel) syncDevice(want State) (Changes, State, error) {
	var done Changes
	for range deviceRounds {
		have, err := k.readDevice(want.Device.Name)
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
		if err := permit(want.Device.Name, ops); err != nil {
			return done, have, err
		}
		changed, err := k.apply(ops, have.Device.Index)
		if len(changed) == 0 {
			return done, have, k.explain(want.Device, err)
		}
		done = append(done, changed...)
	}
	return done, State{}, fmt.Errorf("vxlan device %q does not stay as it is set, something else must be changing it: %s", want.Device.Name, done)
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

// rivals are the other devices on the same port, those of the same VNI first.
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

// Delete makes the device absent, with everything on it, and the direct routes.
// A device that does not carry our alias is left alone (ErrNotOurs).
func (k *Kernel) Delete(name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	have, err := k.Read(name)
	if err != nil {
		return err
	}
	var ops []Op
	for _, stray := range have.Strays {
		ops = append(ops, Op{Verb: DeleteDevice, Text: stray})
	}
	var refused error
	switch d := have.Device; {
	case d.Name == "":
	case d.Alias == Alias && d.Kind == kindVXLAN:
		ops = append(ops, Op{Verb: DeleteDevice, Text: name})
	default:
		refused = fmt.Errorf("delete device %q: it %w (kind %s, alias %q): remove it with \"ip link del %s\" if it has to go",
			name, ErrNotOurs, d.Kind, d.Alias, name)
	}
	for p, r := range have.elsewhere().Routes {
		ops = append(ops, deleteRoute(p, r))
	}
	_, err = k.apply(ops, 0)
	return errors.Join(refused, err)
}

// apply carries out operations and returns those that the kernel did, in the
// same memory, and the errors of the others.
func (k *Kernel) apply(ops []Op, index int) (Changes, error) {
	if len(ops) == 0 {
		return nil, nil
	}
	results, err := k.exec(ops, index)
	if err != nil {
		k.distrust()
		return nil, err
	}
	done := ops[:0] // in place: there can be thousands
	var failed []error
	for i, err := range results {
		if err != nil {
			k.distrust() // the kernel is not as it was thought to be
		}
		if err != nil && !ops[i].settled(err) {
			failed = append(failed, ops[i].explain(err))
			continue
		}
		done = append(done, ops[i])
	}
	return done, summary(failed)
}

// exec has the kernel do all operations in one batch, but for the offload, which
// netlink doesn't set: that is done last. It returns one error for each.
func (k *Kernel) exec(ops []Op, index int) ([]error, error) {
	var b rtnl.Batch
	b.Grow(len(ops))
	for i := range ops {
		ops[i].appendTo(&b, index)
	}
	results, err := k.conn.Exec(&b)
	if err != nil {
		return nil, err
	}
	for i := range ops {
		if d := ops[i].Device; ops[i].Verb == SetTxChecksum {
			results = slices.Insert(results, i, k.conn.SetTxChecksum(d.Name, d.TxChecksum))
		}
	}
	return results, k.setByWay(ops, results, index)
}

// explain adds what an operator has to know to an error.
func (o *Op) explain(err error) error {
	if o.Verb == SetRoute && errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%w: another device has a route to it (ip route show %s): give that node another pod subnet, or remove the route",
			err, o.Subnet)
	}
	return err
}

// summary joins errors: the first few, since they tend to be alike. A missing
// device that follows from another error is not worth a word.
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

// settled says that an error means the kernel already is as it should be:
// somebody was faster. The device's going takes with it what is on it.
func (o *Op) settled(err error) bool {
	switch o.Verb {
	case AddAddress, ShowWay:
		return errors.Is(err, unix.EEXIST)
	case DeleteDevice:
		return errors.Is(err, unix.ENODEV)
	case DeleteForeign, DeleteRoute, HideWay, DeleteNeighbor, DeleteForward, DeleteAddress:
		return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EADDRNOTAVAIL)
	}
	return false
}
