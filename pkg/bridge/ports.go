package bridge

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/rtnl"
)

// portState is what the host's end of a veth pair should be, or is.
type portState struct {
	port     bool // of our bridge
	up       bool
	isolated bool
	hairpin  bool
	floods   bool
}

// portVerb is one kind of change of a port.
type portVerb string

const (
	plug    portVerb = "plugged in"
	setMode portVerb = "mode set"
	raise   portVerb = "set up"
)

// planPort lists the changes that turn have into want.
func planPort(want, have portState) []portVerb {
	var verbs []portVerb
	if want.port && !have.port {
		verbs = append(verbs, plug)
		// As the kernel makes a port.
		have.isolated, have.hairpin, have.floods = false, false, true
	}
	if want.isolated != have.isolated || want.hairpin != have.hairpin || want.floods != have.floods {
		verbs = append(verbs, setMode)
	}
	if want.up && !have.up {
		verbs = append(verbs, raise)
	}
	return verbs
}

// SyncPorts has the links of those names be ports of the bridge as Attach makes
// them, but for those that are busy, with an Attach or Detach. It returns what
// it changed, and those of the names that no link has. Where there is no
// bridge, it does nothing.
func (k *Kernel) SyncPorts(s Spec, names []string, busy func(name string) bool) (changes, missing []string, err error) {
	bridge, err := k.find(s.Name)
	if err != nil || bridge.Index == 0 || len(names) == 0 {
		return nil, nil, err
	}
	have, err := k.readPorts(bridge.Index)
	if err != nil {
		return nil, nil, err
	}
	switched := switchesServices(s)
	want := portState{port: true, up: true, isolated: !switched, hairpin: switched}
	var errs []error
	for _, name := range names {
		verbs, err := k.lookAtPort(name, want, have)
		if err == nil && len(verbs) > 0 && !busy(name) {
			err = k.applyPort(bridge.Index, name, want, verbs)
		} else {
			verbs = nil
		}
		switch {
		case errors.Is(err, unix.ENODEV):
			missing = append(missing, name)
		case err != nil:
			errs = append(errs, err)
		case len(verbs) > 0:
			changes = append(changes, fmt.Sprintf("port %s: %v", name, verbs))
		}
	}
	return changes, missing, errors.Join(errs...)
}

// lookAtPort looks at a link that is not among the ports, too. The error is ENODEV
// if there is no such link.
func (k *Kernel) lookAtPort(name string, want portState, ports map[string]portState) ([]portVerb, error) {
	have, known := ports[name]
	if !known {
		link, err := k.conn.Link(name)
		if err != nil {
			return nil, err
		}
		have.up = link.Up()
	}
	return planPort(want, have), nil
}

// applyPort returns ENODEV if there is no such link any more: its pod was
// deleted meanwhile.
func (k *Kernel) applyPort(bridge int, name string, want portState, verbs []portVerb) error {
	var b rtnl.Batch
	for _, v := range verbs {
		switch v {
		case plug:
			b.SetMaster(name, bridge)
		case setMode:
			b.SetPort(rtnl.Port{Name: name, Isolated: want.isolated, Hairpin: want.hairpin})
		case raise:
			b.SetUpByName(name)
		}
	}
	return k.conn.Run(&b)
}

// readPorts are the bridge's ports by name.
func (k *Kernel) readPorts(bridge int) (map[string]portState, error) {
	ports := map[string]portState{}
	err := k.conn.EachPort(bridge, func(p rtnl.PortEntry) {
		ports[p.Name] = portState{port: true, up: p.Up(), isolated: p.Isolated, hairpin: p.Hairpin, floods: p.Floods}
	})
	return ports, err
}
