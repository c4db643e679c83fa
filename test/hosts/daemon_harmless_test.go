package hosts

import (
	"context"
	"errors"
	"testing"

	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
)

// What docs/architecture.md says does no harm: pods of one host and of two still reach
// each other, also when they have to ask for MAC addresses again, and when the host
// has told them of shorter ways often enough.
func TestWhatDoesNoHarm(t *testing.T) {
	t.Parallel()
	dual(t, func(t *testing.T, m mode) {
		f, ctx := newFleet(t, 2, m.set, withHealth), withPatience(t)
		a := f.hosts[0]
		f.pods = append(f.pods, f.addPod(ctx, a, "neighbour"))
		for _, pod := range f.pods {
			for _, sysctl := range []string{"net.ipv4.conf.all.accept_redirects=1", "net.ipv4.conf.eth0.accept_redirects=1", "net.ipv6.conf.eth0.accept_redirects=1"} {
				f.runIn(pod.Netns(), []string{"sysctl", "-qw", sysctl})
			}
		}
		for name, do := range map[string][]string{
			"redirects":        {"sysctl", "-qw", "net.ipv4.conf.all.send_redirects=1", "net.ipv4.conf.cni0.send_redirects=1"},
			"proxy_arp":        {"sysctl", "-qw", "net.ipv4.conf.cni0.proxy_arp=1"},
			"arp_filter":       {"sysctl", "-qw", "net.ipv4.conf.cni0.arp_filter=1"},
			"arp_ignore":       {"sysctl", "-qw", "net.ipv4.conf.cni0.arp_ignore=2"},
			"arp_announce":     {"sysctl", "-qw", "net.ipv4.conf.cni0.arp_announce=2"},
			"shared_media":     {"sysctl", "-qw", "net.ipv4.conf.cni0.shared_media=0"},
			"accept_local":     {"sysctl", "-qw", "net.ipv4.conf.cni0.accept_local=1"},
			"group_fwd_mask":   {"ip", "link", "set", "cni0", "type", "bridge", "group_fwd_mask", "8"},
			"forward_delay":    {"ip", "link", "set", "cni0", "type", "bridge", "forward_delay", "3000"},
			"promiscuity":      {"ip", "link", "set", "cni0", "promisc", "on"},
			"queue length":     {"ip", "link", "set", "cni0", "txqueuelen", "1"},
			"port's MAC":       {"ip", "link", "set", onlyPort(t, a), "address", "02:00:00:00:00:99"},
			"port's cost":      {"ip", "link", "set", onlyPort(t, a), "type", "bridge_slave", "cost", "99"},
			"broadcast routes": {"ip", "route", "flush", "table", "local", "type", "broadcast", "dev", "cni0"},
		} {
			t.Run(name, func(t *testing.T) {
				f, ctx := f.sub(t), withPatience(t)
				f.runIn(a.Netns(), do)
				f.runIn(a.Netns(), []string{"ip", "neigh", "flush", "dev", "cni0"})
				const often = 10 // the kernel sends a redirect for the first few packets
				for range often {
					f.eventually(ctx, func(ctx context.Context) error {
						return errors.Join(ping(ctx, f.pods[0], f.pods[2]), ping(ctx, f.pods[2], f.pods[0]), ping(ctx, f.pods[1], f.pods[0]))
					})
				}
				for i, from := range f.pods {
					for _, to := range f.pods[i+1:] {
						for _, dst := range to.Addresses {
							_, err := probe.Ping(ctx, from.Netns(), dst)
							f.must(err)
						}
					}
				}
			})
		}
	})
}
