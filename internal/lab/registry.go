package lab

import (
	"fmt"
	"net/netip"
	"os"

	"go.yaml.in/yaml/v3"
)

// node is a host in the registry's file.
type node struct {
	Name      string         `yaml:"name"`
	Addresses []netip.Addr   `yaml:"addresses,flow"`
	Subnets   []netip.Prefix `yaml:"podSubnets,flow"`
}

// Register makes hosts the registry's content.
func (l *Lab) Register(hosts ...*Host) error {
	var file struct {
		Nodes []node `yaml:"nodes"`
	}
	for _, h := range hosts {
		file.Nodes = append(file.Nodes, node{Name: h.Name, Addresses: h.Addresses(), Subnets: h.Subnets()})
	}
	text, err := yaml.Marshal(file)
	if err != nil {
		return fmt.Errorf("encode the registry: %w", err)
	}
	return l.WriteRegistry(text)
}

// WriteRegistry replaces the registry's file by text, right or wrong, in one
// step: no reader sees a part of it.
func (l *Lab) WriteRegistry(text []byte) error {
	temporary := l.RegistryFile() + ".new"
	if err := os.WriteFile(temporary, text, 0o644); err != nil {
		return fmt.Errorf("write the registry: %w", err)
	}
	return os.Rename(temporary, l.RegistryFile())
}
