package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/overlay-cni/overlay-cni/test/internal/figures"
)

// machine is where the figures come from.
type machine struct {
	figures.Machine
	// Versions are what programs say of themselves.
	Versions map[string]string
}

// debianDir is where Debian's plugins are, which do not tell their version.
const debianDir = "/usr/lib/cni"

func thisMachine(o options) machine {
	m := machine{Machine: figures.ThisMachine(), Versions: map[string]string{ourSet: version(o.plugin())}}
	for _, plugin := range []string{"bridge", "host-local", "portmap"} {
		if v := version(filepath.Join(o.cniDir, plugin)); v != "" {
			m.Versions[plugin] = v
		}
	}
	if v := output("dpkg-query", "-W", "-f", "${Version}", "containernetworking-plugins"); o.cniDir == debianDir && v != "" {
		m.Versions["containernetworking-plugins"] = v
	}
	if v := output("iptables", "--version"); v != "" && len(m.Versions) > 1 {
		m.Versions["iptables"] = v
	}
	return m
}

// version asks a CNI plugin, which tells when no command is given.
func version(plugin string) string {
	if _, err := os.Stat(plugin); err != nil {
		return ""
	}
	return output(plugin)
}

func output(name string, args ...string) string {
	out, _ := exec.Command(name, args...).CombinedOutput()
	line, _, _ := bytes.Cut(out, []byte("\n"))
	return string(bytes.TrimSpace(line))
}
