package cluster

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Setup is what differs between clusters. The cluster's folder keeps it for later
// runs of this program and for the nodes' first processes.
type Setup struct {
	// Families are the IP versions of nodes, pods and Services. An object with one
	// address has the first one.
	Families []string `json:"families"`
	// Proxy is the mode of kube-proxy.
	Proxy string `json:"proxy"`
	// Workers is how many nodes there are beside the control plane; 0: two.
	Workers int `json:"workers"`
}

const setupFile = "setup.json"

func (c *Cluster) writeSetup() error {
	text, err := json.Marshal(c.Setup)
	if err != nil {
		return err
	}
	return c.write(c.path(setupFile), string(text))
}

// readSetup is that of the cluster in a folder.
func readSetup(dir string) (s Setup, err error) {
	path := filepath.Join(dir, setupFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("read %s: %w", path, err)
	}
	return s, nil
}

// nodes are all, with the control plane's.
func (s Setup) nodes(families []Family) ([]Node, error) {
	switch {
	case s.Workers == 0:
		return nodes(families, usualWorkers), nil
	case s.Workers < 1 || s.Workers > maxWorkers:
		return nil, fmt.Errorf("%d workers are out of range: use 1 to %d", s.Workers, maxWorkers)
	}
	return nodes(families, s.Workers), nil
}

// families looks the names up.
func (s Setup) families() ([]Family, error) {
	var all []Family
	for _, name := range s.Families {
		f, err := family(name)
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("a cluster needs a family, such as %s", known[0].Name)
	}
	return all, nil
}
