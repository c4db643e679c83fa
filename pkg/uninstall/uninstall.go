// Package uninstall removes from a host what the programs of overlay-cni made.
//
// Invariant: it removes the parts in the reverse order of their list. If a part does
// not exist, removing it succeeds, and a part that fails does not stop the others. So
// an uninstall that was killed can be run again. Uninstall leaves alone what is not
// ours. Sysctls that were turned on stay on, because other programs may rely on them.
//
// The network configuration goes first, so that no pod is made meanwhile. The
// plugin's program goes last: without it, the runtime can't delete a pod that
// this package could not remove.
package uninstall

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/cnifiles"
	"github.com/overlay-cni/overlay-cni/pkg/host"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/part"
	"github.com/overlay-cni/overlay-cni/pkg/vxlan"
)

// Options say where things are.
type Options struct {
	RunDir string
	// Names win over the names that the daemon published when it last ran. Published
	// names win over Configured, because the configuration may have changed since, or
	// a flag may have overridden it.
	Names
	Configured Names
	Program    cnifiles.Program
	Config     cnifiles.Config
	// Force takes pods off the network, too.
	Force bool
}

// Names are the names of the interfaces that the daemon makes. Empty: unknown.
type Names struct{ Bridge, Device string }

// The daemon's defaults, for a host without known names.
const (
	defaultBridge = "cni0"
	defaultDevice = "overlay0"
)

// ErrPods says that uninstall removed nothing because the host has pods.
var ErrPods = errors.New("pods of this host are on the network")

// Clean removes everything from the network namespace of the calling thread, and
// from the disk. It calls removed with the name of each thing that it removed. If it
// returns nil, nothing is left. It fails while a daemon runs, because the daemon
// would make everything again.
func (o Options) Clean(removed func(name string)) error {
	claim, err := host.Claim()
	if errors.Is(err, host.ErrClaimed) {
		return fmt.Errorf("%w, and would make everything again: stop it first", err)
	}
	if err != nil {
		return err
	}
	defer claim.Close()
	h, err := host.Open(o.RunDir)
	if err != nil {
		return err
	}
	defer h.Close()
	was := o.was()
	if err := o.allowed(h, was.Bridge.Name); err != nil {
		return err
	}
	parts := append([]part.Part[host.Desired]{o.programPart()}, h.Parts()...)
	return part.NewList(slog.Default(), 0, parts...).Remove(was, removed)
}

// was returns the desired state of the daemon, with only the names and paths set that
// Remove needs.
func (o Options) was() host.Desired {
	published, _ := nodestate.Last(o.RunDir) // there may be none
	config := o.Config
	config.Content = cnifiles.Conflist(o.RunDir)
	return host.Desired{
		Bridge:   bridge.Spec{Name: cmp.Or(o.Bridge, published.Bridge, o.Configured.Bridge, defaultBridge)},
		Tunnel:   vxlan.State{Device: vxlan.Device{Name: cmp.Or(o.Device, published.Device, o.Configured.Device, defaultDevice)}},
		Conflist: config,
	}
}

func (o Options) programPart() part.Part[host.Desired] {
	return part.Part[host.Desired]{Name: "the plugin", Remove: func(host.Desired) ([]string, error) {
		had, err := o.Program.Remove()
		if !had {
			return nil, err
		}
		return []string{o.Program.Path}, err
	}}
}

// allowed returns an error if the host has pods and Force is not set.
func (o Options) allowed(h *host.Host, bridge string) error {
	if o.Force {
		return nil
	}
	pods, err := h.Pods(bridge)
	if err != nil || len(pods) == 0 {
		return err
	}
	const shown = 5
	if more := len(pods) - shown; more > 0 {
		pods = append(pods[:shown], fmt.Sprintf("and %d more", more))
	}
	return fmt.Errorf("%w: %s: delete them first, or say --force, which leaves them without a network", ErrPods, strings.Join(pods, ", "))
}
