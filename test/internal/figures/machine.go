package figures

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine is where figures come from.
type Machine struct {
	CPU, Kernel, System string
	Load                string // averages of 1, 5 and 15 minutes
	CPUs                int
	MemoryMiB           uint64
}

// ThisMachine describes the machine now. It leaves out what it can't read.
func ThisMachine() Machine {
	m := Machine{
		CPU: field("/proc/cpuinfo", "model name", ":"), System: strings.Trim(field("/etc/os-release", "PRETTY_NAME", "="), `"`),
		CPUs: runtime.NumCPU(),
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
	return m
}

func (m Machine) String() string {
	return fmt.Sprintf("%s, %d CPUs, %d MiB; Linux %s, %s; load before: %s", m.CPU, m.CPUs, m.MemoryMiB, m.Kernel, m.System, m.Load)
}

// field returns the value of a key in a file of lines.
func field(file, key, separator string) string {
	data, _ := os.ReadFile(file)
	for line := range strings.Lines(string(data)) {
		if k, v, _ := strings.Cut(line, separator); strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}
