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
	"sync"

	"github.com/overlay-cni/overlay-cni/internal/network"
	"github.com/overlay-cni/overlay-cni/internal/nft"
	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/guard"
	"github.com/overlay-cni/overlay-cni/pkg/hostport"
	"github.com/overlay-cni/overlay-cni/pkg/veth"
)

// Host is a host with pods: a run directory and a network namespace. Several
// goroutines may call the methods whose names begin with Sync.
type Host struct {
	mu     sync.Mutex
	store  *attachment.Store
	bridge *bridge.Kernel
	ports  *hostport.Kernel
	rules  *nft.Conn // of guard
	guard  *guard.Kernel
	flows  flows
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
// belongs to no pod: it plugs ports into the bridge again, reserves addresses again,
// removes the attachments of pods that are gone, and frees their addresses. It skips
// attachments that an ADD or DEL works on. It returns what it changed. The error
// names pods that nothing can reach, too.
func (h *Host) Sync(s bridge.Spec) ([]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	entries, err := h.store.List()
	if err != nil {
		return nil, err
	}
	ports := portsOf(entries, s.Name)
	plugged, missing, err := veth.On(h.bridge).Sync(s, mtusOf(entries, s.Name), func(name string) bool { return h.busy(ports[name]) })
	swept, sweepErr := h.sweep(entries, missing, s.Name)
	reserved, users, useErr := h.syncInUse(s)
	var flowsErr error
	if useErr == nil {
		flowsErr = h.flows.end(h.store.Addresses(), users)
	}
	return slices.Concat(plugged, swept, reserved), errors.Join(err, sweepErr, cutOff(entries, s), useErr, unrecorded(users), flowsErr)
}

// SyncInUse is the part of Sync that keeps addresses in use from being given.
func (h *Host) SyncInUse(s bridge.Spec) ([]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	changes, _, err := h.syncInUse(s)
	return changes, err
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
	h.mu.Lock()
	defer h.mu.Unlock()
	changes, err := h.ports.Sync(func() (hostport.Want, error) { return h.hostPorts(bridge) })
	if !errors.Is(err, hostport.ErrUnsupported) {
		return changes, err
	}
	want, listErr := h.hostPorts(bridge)
	if slices.ContainsFunc(want.Pods, func(p hostport.Pod) bool { return len(p.Mappings) > 0 }) {
		return changes, err
	}
	return changes, listErr
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

// mtusOf returns the MTUs of the pods on a bridge, by the names of their ports.
func mtusOf(entries []attachment.Entry, bridge string) map[string]int {
	mtus := map[string]int{}
	for _, e := range entries {
		if e.Err == nil && e.Record.Bridge == bridge {
			mtus[e.Key.HostName()] = e.Record.MTU
		}
	}
	return mtus
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
	// FreeLost makes files for a moment, which would start another round. So it is told
	// first of addresses that pods still have.
	inUse := func(k attachment.Key) bool {
		there, err := h.bridge.Exists(k.HostName())
		return there || err != nil
	}
	freed, err := h.store.FreeLost(inUse, func(k attachment.Key, a netip.Addr) (bool, error) { return EndUse(h.bridge, k, a) })
	if len(freed) > 0 {
		changes = append(changes, fmt.Sprintf("freed the addresses %v, which no attachment has", freed))
	}
	return changes, errors.Join(append(errs, err)...)
}

// FreeUnused frees all addresses that no pod has any more: the pods vanished
// without a DEL, or the host was booted and the run directory outlived that. The
// daemon's rounds do the same. It is for an ADD that finds no address, and for hosts
// without a daemon.
func FreeUnused(b *bridge.Kernel, s *attachment.Store) error {
	h := &Host{store: s, bridge: b}
	entries, err := s.List()
	if err != nil {
		return err
	}
	var missing []string
	for _, e := range entries {
		missing = append(missing, e.Key.HostName()) // perhaps: removeLost looks
	}
	_, err = h.sweep(entries, missing, "")
	return errors.Join(err, EndHolds(b, s))
}

// EndHolds frees the addresses that were held for interfaces of pods that are gone.
func EndHolds(b *bridge.Kernel, s *attachment.Store) error {
	want, err := InUse(b, s, func(netip.Addr) bool { return true })
	if err == nil {
		_, err = endHolds(s, want)
	}
	return err
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
	unknown, err := h.unrecorded(entries)
	if err != nil {
		return hostport.Want{}, err
	}
	if len(unknown) > 0 {
		want.Pods = append(want.Pods, hostport.Pod{Addresses: unknown, Busy: true})
	}
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

// unrecorded returns the addresses that are in use or reserved, but of which no
// record tells. Their host ports stay as they are.
func (h *Host) unrecorded(entries []attachment.Entry) ([]netip.Addr, error) {
	reserved, err := h.store.Users()
	if err != nil {
		return nil, err
	}
	users, err := InUse(h.bridge, h.store, nil)
	if err != nil {
		return nil, err
	}
	maps.Copy(users, reserved)
	for _, e := range entries {
		for _, a := range e.Record.Addresses {
			delete(users, a)
		}
	}
	return slices.Collect(maps.Keys(users)), nil
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
