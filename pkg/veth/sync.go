package veth

import (
	"errors"
	"fmt"
	"maps"
	"slices"
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
	// altered are the properties that differ from what a new port has. They are read
	// for ports only.
	altered []rtnl.PortProperty
	mtu     int // bytes
}

// portVerb is one kind of change of a port.
type portVerb string

const (
	plug    portVerb = "plugged in"
	setMode portVerb = "mode set"
	setMTU  portVerb = "MTU set"
	raise   portVerb = "set up"
	restore portVerb = "properties restored"
)

// setting is a property with its value.
type setting struct {
	rtnl.PortProperty
	value uint8
}

// newPort returns the properties that every new port has. Another value stops a pod's
// traffic, or makes the bridge send it to other pods. It is a function because an ADD
// doesn't need the list, and would pay for making it.
func newPort() []setting {
	return []setting{
		{rtnl.PortState, rtnl.PortForwarding}, {rtnl.PortBPDUGuard, 0}, {rtnl.PortRootBlock, 0}, {rtnl.PortLearning, 1}, {rtnl.PortFlood, 1},
		{rtnl.PortProxyARP, 0}, {rtnl.PortProxyARPWiFi, 0}, {rtnl.PortMcastToUcast, 0}, {rtnl.PortVLANTunnel, 0}, {rtnl.PortNeighSuppress, 0},
		{rtnl.PortLocked, 0}, {rtnl.PortMAB, 0},
	}
}

// altered lists the properties in which a port differs from a new one. The kernel
// itself disables a port that is down or whose pod's end is down.
func altered(p rtnl.PortEntry) []rtnl.PortProperty {
	var all []rtnl.PortProperty
	for _, n := range newPort() {
		if n.PortProperty == rtnl.PortState && (!p.Up() || !p.Carrier()) {
			continue
		}
		if v, ok := p.Property(n.PortProperty); ok && v != n.value {
			all = append(all, n.PortProperty)
		}
	}
	return all
}

// join lists the changes in words.
func join(verbs []portVerb, altered []rtnl.PortProperty) string {
	var texts []string
	for _, v := range verbs {
		if v != restore {
			texts = append(texts, string(v))
			continue
		}
		for _, p := range altered {
			texts = append(texts, p.Name+" restored")
		}
	}
	return strings.Join(texts, ", ")
}

// defaults returns the values that a new port has.
func defaults(of []rtnl.PortProperty) map[rtnl.PortProperty]uint8 {
	values := map[rtnl.PortProperty]uint8{}
	for _, n := range newPort() {
		if slices.Contains(of, n.PortProperty) {
			values[n.PortProperty] = n.value
		}
	}
	return values
}

// planPort lists the changes that turn have into want. The kernel drops packets that
// are larger than the MTU of the end at which they arrive, so a smaller one than the
// pod's stops them without a word, and a larger one changes nothing.
func planPort(want, have portState) []portVerb {
	var verbs []portVerb
	if want.port && !have.port {
		verbs = append(verbs, plug)
		// The flags of a new port.
		have.isolated, have.hairpin, have.floods, have.hooked, have.altered = false, false, true, false, nil
	}
	if have.mtu < want.mtu {
		verbs = append(verbs, setMTU)
	}
	if want.isolated != have.isolated || want.hairpin != have.hairpin || want.floods != have.floods || want.hooked != have.hooked {
		verbs = append(verbs, setMode)
	}
	if want.up && !have.up {
		verbs = append(verbs, raise)
	}
	if len(have.altered) > 0 {
		verbs = append(verbs, restore)
	}
	return verbs
}

// Sync makes links ports of the bridge, with the settings that Add gives a port. ports
// has the MTU of each pod's end, in bytes, by the name of the host's end. Sync skips a
// link for which busy reports that an ADD or DEL is at work. It returns what it
// changed, and the names for which there is no link. If there is no bridge, Sync does
// nothing.
func (k *Kernel) Sync(s bridge.Spec, ports map[string]int, busy func(name string) bool) (changes, missing []string, err error) {
	bridge, err := k.conn.Link(s.Name)
	if errors.Is(err, unix.ENODEV) {
		return nil, nil, nil
	}
	if err != nil || len(ports) == 0 {
		return nil, nil, err
	}
	have, err := k.readPorts(bridge.Index)
	if err != nil {
		return nil, nil, err
	}
	filtered := callsIptables(s)
	want := portState{port: true, up: true, isolated: !filtered, hairpin: filtered, hooked: true}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(ports)) {
		want.mtu = ports[name]
		state, err := k.stateOf(name, have)
		verbs := planPort(want, state)
		if err == nil && len(verbs) > 0 && !busy(name) {
			err = k.apply(bridge.Index, name, want, state, verbs)
		} else {
			verbs = nil
		}
		switch {
		case errors.Is(err, unix.ENODEV):
			missing = append(missing, name)
		case err != nil:
			errs = append(errs, err)
		case len(verbs) > 0:
			changes = append(changes, fmt.Sprintf("port %s: %s", name, join(verbs, state.altered)))
		}
	}
	return changes, missing, errors.Join(errs...)
}

// stateOf returns the state of a link, which may not be among the ports. The error is
// ENODEV if there is no such link.
func (k *Kernel) stateOf(name string, ports map[string]portState) (portState, error) {
	if have, known := ports[name]; known {
		return have, nil
	}
	link, err := k.conn.Link(name)
	return portState{up: link.Up(), mtu: link.MTU}, err
}

// apply returns ENODEV if the link is gone because its pod was deleted meanwhile.
func (k *Kernel) apply(bridge int, name string, want, have portState, verbs []portVerb) error {
	var b rtnl.Batch
	for _, v := range verbs {
		switch v {
		case plug:
			b.SetMaster(name, bridge)
		case setMTU:
			b.SetMTU(name, want.mtu)
		case restore:
			b.SetPortProperties(name, defaults(have.altered))
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
		ports[p.Name] = portState{
			port: true, up: p.Up(), isolated: p.Isolated, hairpin: p.Hairpin, floods: p.Floods, hooked: p.Hooked,
			altered: altered(p), mtu: p.MTU,
		}
	})
	return ports, err
}
