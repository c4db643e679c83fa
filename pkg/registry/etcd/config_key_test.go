package etcd

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

func TestConfigurationComesLater(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{})
	a := c.join(1)
	v := a.awaitError("the network has no configuration: put one into the key /overlay-cni/config of etcd, such as networks: [10.244.0.0/16]")
	wantError(t, v.err, registry.ErrNotReady)
	c.put("/overlay-cni/config", "networks: 5")
	wantError(t, a.awaitError("/overlay-cni/config:1:11: networks: expected a list").err, registry.ErrNotReady)
	c.put("/overlay-cni/config", config4)
	a.awaitNames("host-1")
}

func TestBrokenConfigurationLeavesTheLastGoodOne(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{})
	c.put("/overlay-cni/config", config4)
	a := c.join(1)
	had := a.own()
	c.put("/overlay-cni/config", "networks: [10.244.0.0/8]")
	v := a.awaitError("/overlay-cni/config:1:12: networks[0]: \"10.244.0.0/8\": expected a network without host bits: write 10.0.0.0/8")
	if !sameNode(v.node("host-1"), had) {
		t.Errorf("had %v, has %s", had, v)
	}
	// A registered host keeps its subnets, also after a restart or a change of its
	// address. A new host has to wait.
	a.SetAddresses(address(7))
	a.await("its new address", func(v view) bool { return slices.Equal(v.node("host-1").Addresses, address(7)) })
	b := c.join(2)
	wantError(t, b.awaitError("networks[0]").err, registry.ErrNotReady)
	c.remove("/overlay-cni/config")
	if v := a.awaitError("the network has no configuration"); v.names() != "host-1" {
		t.Errorf("the configuration was deleted: %s", v)
	}
	c.put("/overlay-cni/config", config4)
	b.awaitNames("host-1 host-2")
	if v := a.awaitNames("host-1 host-2"); !slices.Equal(v.node("host-1").Subnets, had.Subnets) {
		t.Errorf("had %v, has %s", had, v)
	}
}

// Every host moves when its subnet doesn't fit any more, none when it does.
func TestConfigurationChanges(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{})
	c.put("/overlay-cni/config", config4)
	hosts := []*host{c.join(1), c.join(2), c.join(3)}
	had := hosts[0].awaitNames("host-1 host-2 host-3")
	steps := []struct {
		name, config, inside string
		stays                bool
	}{
		{"a larger network", "networks: [10.240.0.0/12]", "10.240.0.0/12", true},
		{"smaller subnets", "networks: [10.240.0.0/12]\nsubnetLengths: {ipv4: 26}", "10.240.0.0/12", false},
		{"another network", "networks: [10.9.0.0/16]", "10.9.0.0/16", false},
		{"a second family", "networks: [10.9.0.0/16, fd00:1::/48]", "10.9.0.0/16", true},
	}
	for _, step := range steps {
		c.put("/overlay-cni/config", step.config)
		want, _ := parseConfig("", []byte(step.config))
		for _, h := range hosts {
			v := h.await(step.name, func(v view) bool {
				return len(v.nodes) == 3 && v.err == nil &&
					!slices.ContainsFunc(v.nodes, func(n registry.Node) bool { return !want.fits(n.Subnets) })
			})
			for i, n := range v.nodes {
				if kept := n.Subnets[0] == had.nodes[i].Subnets[0]; kept != step.stays {
					t.Errorf("%s: %s had %v and has %v", step.name, n.Name, had.nodes[i].Subnets, n.Subnets)
				}
			}
		}
		had = hosts[0].await("all", func(v view) bool { return len(v.nodes) == 3 && v.err == nil })
		if n := len(c.keys()); n != 4+3*len(want.pools) {
			t.Errorf("%s: left are %q", step.name, c.keys())
		}
	}
	if !strings.Contains(hosts[0].log.String(), "pod subnets changed") {
		t.Errorf("the log does not say it: %s", hosts[0].log)
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	c := startCluster(t, setup{})
	const text = "networks: [10.244.0.0/16]\nsettings:\n  vxlan:\n    vni: 7\n"
	c.put("/overlay-cni/config", text)
	a := c.join(1, func(o *Options) {
		o.CheckSettings = func(name string, yaml []byte) error {
			if strings.Contains(string(yaml), "vni: 0") {
				return fmt.Errorf("%s:4:10: %w", name, errTest)
			}
			return nil
		}
	})
	a.own()
	if got, want := string(a.Settings()), "\n\n  vxlan:\n    vni: 7\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	c.put("/overlay-cni/config", strings.Replace(text, "7", "0", 1))
	v := a.awaitError("/overlay-cni/config:4:10: ")
	wantError(t, v.err, errTest)
	if !strings.Contains(string(a.Settings()), "vni: 7") {
		t.Errorf("settings that were refused are given: %q", a.Settings())
	}
	c.put("/overlay-cni/config", strings.Replace(text, "7", "9", 1))
	a.await("the new settings", func(v view) bool { return v.err == nil && strings.Contains(string(a.Settings()), "vni: 9") })
	c.put("/overlay-cni/config", config4)
	a.await("no settings", func(v view) bool { return v.err == nil && a.Settings() == nil })
}

var errTest = errors.New("a setting is refused")
