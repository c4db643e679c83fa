package pods

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/internal/network"
	"github.com/overlay-cni/overlay-cni/internal/nft"
	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/guard"
	"github.com/overlay-cni/overlay-cni/pkg/hostport"
	"github.com/overlay-cni/overlay-cni/pkg/veth"
)

// Host is a host with pods: a run directory and a network namespace. It is for one
// goroutine at a time.
type Host struct {
	store  *attachment.Store
	bridge *bridge.Kernel
	ports  *hostport.Kernel
	rules  *nft.Conn // of guard
	guard  *guard.Kernel
}

// Open opens the network namespace of the calling thread.
func Open(runDir string) (*Host, error) {
	b, err := bridge.Open()
	if err != nil {
		return nil, err
	}
	p, err := hostport.Open()
	if err != nil {
		b.Close()
		return nil, err
	}
	rules, err := nft.Dial()
	if err != nil {
		p.Close()
		b.Close()
		return nil, err
	}
	return &Host{store: attachment.Open(runDir, network.Default), bridge: b, ports: p, rules: rules, guard: guard.On(rules)}, nil
}

// Close closes the sockets.
func (h *Host) Close() {
	h.rules.Close()
	h.ports.Close()
	h.bridge.Close()
}

// Sync restores what ADD made for each pod but its host ports, and removes what
// belongs to no pod: it plugs ports into the bridge again, removes the attachments
// of pods that are gone, and frees their addresses. It skips
// attachments that an ADD or DEL works on. It returns what it changed. The error
// names pods that nothing can reach, too.
func (h *Host) Sync(s bridge.Spec) ([]string, error) {
	entries, err := h.store.List()
	if err != nil {
		return nil, err
	}
	ports := portsOf(entries, s.Name)
	plugged, missing, err := veth.On(h.bridge).Sync(s, slices.Collect(maps.Keys(ports)), func(name string) bool { return h.busy(ports[name]) })
	swept, sweepErr := h.sweep(entries, missing, s.Name)
	return slices.Concat(plugged, swept), errors.Join(err, sweepErr, cutOff(entries, s))
}

// cutOff returns an error that names the pods whose addresses are in none of this
// node's subnets: the subnets changed, and no host has a route to such a pod.
func cutOff(entries []attachment.Entry, s bridge.Spec) error {
	var pods []string
	for _, e := range entries {
		for _, a := range e.Record.Addresses {
			if e.Err == nil && e.Record.Bridge == s.Name && !within(s, a) {
				pods = append(pods, fmt.Sprintf("%s %s", cmp.Or(e.Record.Pod, string(e.Key)), a))
			}
		}
	}
	if len(pods) == 0 {
		return nil
	}
	const shown = 5
	return fmt.Errorf("%d pod addresses are in none of this node's subnets, so nothing reaches these pods: delete the pods, so that they are recreated: %s",
		len(pods), strings.Join(pods[:min(shown, len(pods))], ", "))
}

func within(s bridge.Spec, a netip.Addr) bool {
	return slices.ContainsFunc(s.Gateways, func(g netip.Prefix) bool { return g.Contains(a) })
}

// SyncHostPorts opens the host ports that the records of pods on the bridge tell,
// and closes all others. It returns what it changed. It accepts a kernel without
// nf_tables as long as no pod wants a host port.
func (h *Host) SyncHostPorts(bridge string) ([]string, error) {
	changes, err := h.ports.Sync(func() (hostport.Want, error) { return h.hostPorts(bridge) })
	if !errors.Is(err, hostport.ErrUnsupported) {
		return changes, err
	}
	want, listErr := h.hostPorts(bridge)
	if len(want.Pods) == 0 {
		return changes, listErr
	}
	return changes, err
}

// portsOf returns the attachments to a bridge, by the names of their ports.
func portsOf(entries []attachment.Entry, bridge string) map[string]attachment.Key {
	ports := map[string]attachment.Key{}
	for _, e := range entries {
		if e.Err == nil && e.Record.Bridge == bridge {
			ports[e.Key.HostName()] = e.Key
		}
	}
	return ports
}

// sweep removes the attachments of pods that are gone: the veth pair went with the
// pod's network namespace, and the runtime didn't call DEL.
func (h *Host) sweep(entries []attachment.Entry, missing []string, bridge string) ([]string, error) {
	var changes []string
	var errs []error
	for _, e := range entries {
		checked := e.Err == nil && e.Record.Bridge == bridge // veth.Kernel.Sync looked for the port
		if errors.Is(e.Err, attachment.ErrNewer) || (checked && !slices.Contains(missing, e.Key.HostName())) {
			continue
		}
		gone, err := h.removeLost(e.Key)
		if gone {
			changes = append(changes, fmt.Sprintf("removed the lost attachment %s with addresses %v", e.Key, e.Record.Addresses))
		}
		errs = append(errs, err)
	}
	freed, err := h.store.FreeLost(nil, func(k attachment.Key, a netip.Addr) (bool, error) { return EndUse(h.bridge, k, a) })
	if len(freed) > 0 {
		changes = append(changes, fmt.Sprintf("freed the addresses %v, which no attachment has", freed))
	}
	return changes, errors.Join(append(errs, err)...)
}

// removeLost removes an attachment if its pod is gone.
func (h *Host) removeLost(key attachment.Key) (bool, error) {
	if there, err := h.bridge.Exists(key.HostName()); there || err != nil {
		return false, err
	}
	a, err := h.store.TryLock(key)
	if errors.Is(err, attachment.ErrBusy) || errors.Is(err, fs.ErrNotExist) {
		return false, nil // an ADD or DEL takes care of it
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = a.Close() }()
	lost, err := h.lost(key, a)
	if !lost || err != nil {
		return false, err
	}
	if err := Remove(h.bridge, key, a); err != nil {
		return false, fmt.Errorf("remove the lost attachment %s: %w", key, err)
	}
	return true, nil
}

// lost tells whether both ends of an attachment's veth pair are gone. The caller
// holds the lock, so no ADD will make the pair. lost looks for the pod's end, too,
// because somebody may have renamed the host's end.
func (h *Host) lost(key attachment.Key, a *attachment.Attachment) (bool, error) {
	if there, err := h.bridge.Exists(key.HostName()); there || err != nil {
		return false, err // an ADD just came to its end
	}
	r, found, err := a.Record()
	if !found || err != nil {
		return true, nil // an ADD that was killed at its beginning, or damage
	}
	there, err := veth.On(h.bridge).InPod(r.Netns, r.IfName)
	return !there, err
}

// hostPorts lists the pods' host ports, oldest pod first.
func (h *Host) hostPorts(bridge string) (hostport.Want, error) {
	entries, err := h.store.List()
	if err != nil {
		return hostport.Want{}, err
	}
	slices.SortStableFunc(entries, func(a, b attachment.Entry) int { return a.Written.Compare(b.Written) })
	want := hostport.Want{Bridge: bridge}
	for _, e := range entries {
		pod, err := h.hostPortsOf(e)
		if err != nil {
			return hostport.Want{}, err
		}
		if len(pod.Mappings) > 0 || pod.Busy {
			want.Pods = append(want.Pods, pod)
		}
	}
	return want, nil
}

// hostPortsOf returns the host ports of one attachment. They are marked Busy, and
// so stay as they are, while an ADD or DEL works on the attachment, or if the
// record can't be read: damaged, empty, or of a newer version.
func (h *Host) hostPortsOf(e attachment.Entry) (hostport.Pod, error) {
	mappings, err := hostport.Parse(e.Record.HostPorts)
	if e.Err != nil || err != nil {
		held, err := h.store.HeldBy(e.Key)
		return hostport.Pod{Addresses: held, Busy: true}, err
	}
	return hostport.Pod{
		Bridge: e.Record.Bridge, Addresses: e.Record.Addresses, Mappings: mappings, Busy: len(mappings) > 0 && h.busy(e.Key),
	}, nil
}

// busy tells whether an ADD or DEL works on an attachment. A DEL that just ended
// counts.
func (h *Host) busy(key attachment.Key) bool {
	a, err := h.store.TryLock(key)
	if err != nil {
		return true
	}
	_ = a.Close()
	return false
}
