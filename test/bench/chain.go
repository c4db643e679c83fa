package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// chain is a list of plugins that are run as a container runtime runs them.
type chain struct {
	dir     string
	network map[string]json.RawMessage // what goes into each plugin's configuration
	plugins []pluginConf
	port    bool // pods get a host port
}

// pluginConf is one entry of the list.
type pluginConf struct {
	program string
	conf    map[string]json.RawMessage
	// portMappings: it wants to be told the host ports.
	portMappings bool
}

// conflist is a network configuration list of the CNI specification.
type conflist struct {
	Version json.RawMessage              `json:"cniVersion"`
	Name    json.RawMessage              `json:"name"`
	Plugins []map[string]json.RawMessage `json:"plugins"`
}

func readChain(dir, file string) (*chain, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	c, err := newChain(dir, data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return c, nil
}

func newChain(dir string, data []byte) (*chain, error) {
	var list conflist
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, err
	}
	if len(list.Plugins) == 0 || list.Name == nil || list.Version == nil {
		return nil, fmt.Errorf("not a network configuration list: cniVersion, name or plugins is missing")
	}
	c := &chain{dir: dir, network: map[string]json.RawMessage{"cniVersion": list.Version, "name": list.Name}}
	for _, conf := range list.Plugins {
		p, err := newPluginConf(dir, conf)
		if err != nil {
			return nil, err
		}
		c.plugins = append(c.plugins, p)
	}
	return c, nil
}

func newPluginConf(dir string, conf map[string]json.RawMessage) (pluginConf, error) {
	var known struct {
		Type         string          `json:"type"`
		Capabilities map[string]bool `json:"capabilities"`
	}
	whole, err := json.Marshal(conf)
	if err == nil {
		err = json.Unmarshal(whole, &known)
	}
	if err != nil {
		return pluginConf{}, err
	}
	program := filepath.Join(dir, known.Type)
	if _, err := os.Stat(program); err != nil {
		return pluginConf{}, err
	}
	conf = cloneWithout(conf, "capabilities")
	return pluginConf{program: program, conf: conf, portMappings: known.Capabilities["portMappings"]}, nil
}

func cloneWithout(m map[string]json.RawMessage, key string) map[string]json.RawMessage {
	c := make(map[string]json.RawMessage, len(m))
	for k, v := range m {
		if k != key {
			c[k] = v
		}
	}
	return c
}

// takesPorts tells whether one of the plugins wants to be told host ports.
func (c *chain) takesPorts() bool {
	return slices.ContainsFunc(c.plugins, func(p pluginConf) bool { return p.portMappings })
}

// withPort is the same chain for pods that get a host port.
func (c *chain) withPort() *chain {
	d := *c
	d.port = true
	return &d
}

// Add runs the plugins in their order, each with the result of the one before.
func (c *chain) Add(p *pod) error {
	p.result = nil
	for _, plugin := range c.plugins {
		out, err := c.run(plugin, "ADD", p)
		if err != nil {
			return err
		}
		p.result = out
	}
	return nil
}

// Del runs the plugins in reverse order, each with the result of ADD.
func (c *chain) Del(p *pod) error {
	for _, plugin := range slices.Backward(c.plugins) {
		if _, err := c.run(plugin, "DEL", p); err != nil {
			return err
		}
	}
	return nil
}

func (c *chain) run(plugin pluginConf, command string, p *pod) ([]byte, error) {
	conf, err := c.conf(plugin, p)
	if err != nil {
		return nil, err
	}
	out, err := c.program(plugin, command, p).run(conf)
	if err != nil {
		return nil, fmt.Errorf("%s for pod %s: %w", command, p.id, err)
	}
	return out, nil
}

func (c *chain) program(plugin pluginConf, command string, p *pod) program {
	return program{path: plugin.program, env: []string{
		"CNI_COMMAND=" + command,
		"CNI_CONTAINERID=" + p.id,
		"CNI_NETNS=" + p.netns,
		"CNI_IFNAME=" + podIfName,
		"CNI_PATH=" + c.dir,
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME=" + p.id,
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
	}}
}

// conf is what a plugin reads from stdin.
func (c *chain) conf(plugin pluginConf, p *pod) ([]byte, error) {
	conf := cloneWithout(plugin.conf, "")
	for k, v := range c.network {
		conf[k] = v
	}
	if p.result != nil {
		conf["prevResult"] = p.result
	}
	if c.port && plugin.portMappings {
		conf["runtimeConfig"] = fmt.Appendf(nil,
			`{"portMappings":[{"hostPort":%d,"containerPort":%d,"protocol":"tcp"}]}`, p.hostPort(), containerPort)
	}
	return json.Marshal(conf)
}
