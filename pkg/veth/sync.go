package veth

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/rtnl"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
)

// portState is what the host's end of a veth pair should be, or is.
type portState struct {
	port     bool // of our bridge
	up       bool
	isolated bool
	hairpin  bool
	floods   bool
	hooked   bool
}

// portVerb is one kind of change of a port.
type portVerb string

const (
	plug    portVerb = "plugged in"
	setMode portVerb = "mode set"
	raise   portVerb = "set up"
)

// join lists the changes in words.
func join(verbs []portVerb) string {
	var texts []string
	for _, v := range verbs {
		texts = append(texts, string(v))
	}
	return strings.Join(texts, ", ")
}

// planPort lists the changes that turn have into want.
func planPort(want, have portState) []portVerb {
	var verbs []portVerb
	if want.port && !have.port {
		verbs = append(verbs, plug)
		// The flags of a new port.
		have.isolated, have.hairpin, have.floods, have.hooked = false, false, true, false
	}
	if want.isolated != have.isolated || want.hairpin != have.hairpin || want.floods != have.floods || want.hooked != have.hooked {
		verbs = append(verbs, setMode)
	}
	if want.up && !have.up {
		verbs = append(verbs, raise)
	}
	return verbs
}

// Sync makes the named links ports of the bridge, with the settings that Add
// gives a port. It skips a link for which busy reports that an ADD or DEL is at
// work. Sync returns what it changed, and the names for which there is no link.
// If there is no bridge, Sync does nothing.
func (k *Kernel) Sync(s bridge.Spec, names []string, busy func(name string) bool) (changes, missing []string, err error) {
	bridge, err := k.conn.Link(s.Name)
	if errors.Is(err, unix.ENODEV) {
		return nil, nil, nil
	}
	if err != nil || len(names) == 0 {
		return nil, nil, err
	}
	have, err := k.readPorts(bridge.Index)
	if err != nil {
		return nil, nil, err
	}
	filtered := callsIptables(s)
	want := portState{port: true, up: true, isolated: !filtered, hairpin: filtered, hooked: true}
	var errs []error
	for _, name := range names {
		verbs, err := k.planLink(name, want, have)
		if err == nil && len(verbs) > 0 && !busy(name) {
			err = k.apply(bridge.Index, name, want, verbs)
		} else {
			verbs = nil
		}
		switch {
		case errors.Is(err, unix.ENODEV):
			missing = append(missing, name)
		case err != nil:
			errs = append(errs, err)
		case len(verbs) > 0:
			changes = append(changes, fmt.Sprintf("port %s: %s", name, join(verbs)))
		}
	}
	return changes, missing, errors.Join(errs...)
}

// planLink plans a link, which may not be among the ports. The error is ENODEV if
// there is no such link.
func (k *Kernel) planLink(name string, want portState, ports map[string]portState) ([]portVerb, error) {
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

// apply returns ENODEV if the link is gone because its pod was deleted meanwhile.
func (k *Kernel) apply(bridge int, name string, want portState, verbs []portVerb) error {
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

// readPorts returns the bridge's ports by name.
func (k *Kernel) readPorts(bridge int) (map[string]portState, error) {
	ports := map[string]portState{}
	err := k.conn.EachPort(bridge, func(p rtnl.PortEntry) {
		ports[p.Name] = portState{port: true, up: p.Up(), isolated: p.Isolated, hairpin: p.Hairpin, floods: p.Floods, hooked: p.Hooked}
	})
	return ports, err
}
