package main

import (
	"os"
	"strconv"
	"strings"
)

// ticks is USER_HZ, in which /proc/stat counts.
const ticks = 100

// busy is how long all CPUs together were not idle since the boot, in seconds. The
// kernel does much of a packet's work on nobody's account, so no process's own time
// would do. Whatever else runs is counted too.
func busy() float64 {
	data, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(data), "\n")
	return busyIn(line)
}

// busyIn reads the line "cpu" of /proc/stat: user, nice, system, idle, iowait, irq,
// softirq and steal. Idle and iowait are no work.
func busyIn(line string) float64 {
	var sum float64
	for i, field := range strings.Fields(line) {
		if i == 0 || i == 4 || i == 5 || i > 7 {
			continue
		}
		n, _ := strconv.ParseFloat(field, 64)
		sum += n
	}
	return sum / ticks
}
