package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// PodSpec says how a pod is to be made. Only the name is needed.
type PodSpec struct {
	Name string
	// IfName is eth0 by default.
	IfName string
	// Config is the plugin's configuration as JSON; by default that of a host
	// whose overlayd knows everything.
	Config []byte
	// Args go into CNI_ARGS; by default what Kubernetes' runtimes pass.
	Args [][2]string
}

// Pod is a network namespace that the plugin has connected.
type Pod struct {
	Name      string
	Host      *Host
	Addresses []netip.Addr // in the order of the plugin's result
	Result    *types100.Result

	spec PodSpec
	raw  []byte // the result as the plugin wrote it
	net  *stack
}

// Netns is the pod's network namespace.
func (p *Pod) Netns() *sandbox.Netns { return p.net.ns }

// AddPod makes a pod as a container runtime does: a network namespace with lo
// up, then the plugin's ADD. If that fails, the runtime's DEL follows, and
// nothing of the pod is left.
func (h *Host) AddPod(ctx context.Context, spec PodSpec) (*Pod, error) {
	net, err := newStack(h.net.ns.Name() + "-" + spec.Name)
	if err != nil {
		return nil, err
	}
	p := &Pod{Name: spec.Name, Host: h, spec: h.complete(spec), net: net}
	if err := p.add(ctx); err != nil {
		return nil, errors.Join(err, p.Delete(ctx))
	}
	h.pods[spec.Name] = p
	return p, nil
}

func (h *Host) complete(s PodSpec) PodSpec {
	if s.IfName == "" {
		s.IfName = "eth0"
	}
	if s.Config == nil {
		s.Config = h.PluginConfig(nil)
	}
	if s.Args == nil {
		s.Args = [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "lab"}, {"K8S_POD_NAME", s.Name}}
	}
	return s
}

// PluginConfig is the plugin's configuration on this host, as a runtime passes
// it, with more keys added or replaced.
func (h *Host) PluginConfig(more map[string]any) []byte {
	config := map[string]any{"cniVersion": "1.0.0", "name": "overlay", "type": "overlay-cni", "runDir": h.RunDir()}
	maps.Copy(config, more)
	text, err := json.Marshal(config)
	if err != nil {
		return nil // of a value that JSON doesn't have; the plugin refuses to run without a configuration
	}
	return text
}

func (p *Pod) add(ctx context.Context) error {
	out, err := p.Host.invoke(ctx, p.call("ADD", p.spec.Config))
	if err != nil {
		return err
	}
	p.raw = out
	p.Result, err = parseResult(out)
	if err != nil {
		return err
	}
	p.Addresses = addresses(p.Result)
	return nil
}

func (p *Pod) call(command string, config []byte) call {
	return call{
		command:   command,
		container: p.net.ns.Name(),
		netns:     p.net.ns.Path(),
		ifName:    p.spec.IfName,
		args:      p.spec.Args,
		config:    config,
	}
}

// addresses returns the result's addresses. It drops what does not parse: whoever
// needs that address notices.
func addresses(r *types100.Result) []netip.Addr {
	var as []netip.Addr
	for _, ip := range r.IPs {
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			as = append(as, a.Unmap())
		}
	}
	return as
}

// Check runs the plugin's CHECK.
func (p *Pod) Check(ctx context.Context) error {
	return p.rerun(ctx, "CHECK")
}

// Detach runs the plugin's DEL and keeps the namespace. It may be repeated.
func (p *Pod) Detach(ctx context.Context) error {
	return p.rerun(ctx, "DEL")
}

// rerun runs a command that gets the result of ADD and prints nothing.
func (p *Pod) rerun(ctx context.Context, command string) error {
	config, err := withPrevResult(p.spec.Config, p.raw)
	if err != nil {
		return err
	}
	out, err := p.Host.invoke(ctx, p.call(command, config))
	if err == nil && len(out) > 0 {
		err = fmt.Errorf("CNI %s for %s on %s printed %q", command, p.Name, p.Host.Name, out)
	}
	return err
}

// Delete ends the pod as a runtime does: DEL, then the namespace.
func (p *Pod) Delete(ctx context.Context) error {
	delete(p.Host.pods, p.Name)
	return errors.Join(p.Detach(ctx), p.net.Close())
}

// Vanish ends the pod's namespace without a DEL, as after a crash of the
// runtime.
func (p *Pod) Vanish() error {
	delete(p.Host.pods, p.Name)
	return p.net.Close()
}

// Pods are the host's, by name.
func (h *Host) Pods() []*Pod {
	return slices.SortedFunc(maps.Values(h.pods), func(a, b *Pod) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
}
