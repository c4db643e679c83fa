package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// machine is where the figures come from.
type machine struct {
	CPU, Kernel, System, Load string
	CPUs                      int
	MemoryMiB                 uint64
	// Versions are what programs say of themselves.
	Versions map[string]string
}

// debianDir is where Debian's plugins are, which do not tell their version.
const debianDir = "/usr/lib/cni"

func thisMachine(o options) machine {
	m := machine{
		CPU: field("/proc/cpuinfo", "model name", ":"), System: strings.Trim(field("/etc/os-release", "PRETTY_NAME", "="), `"`),
		CPUs: runtime.NumCPU(), Versions: map[string]string{ourSet: version(o.plugin())},
	}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load = strings.Join(strings.Fields(string(load))[:3], " ")
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.MemoryMiB = info.Totalram * uint64(info.Unit) >> 20
	}
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

// field is what follows the key in a file of lines.
func field(file, key, separator string) string {
	data, _ := os.ReadFile(file)
	for line := range strings.Lines(string(data)) {
		if k, v, _ := strings.Cut(line, separator); strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
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
