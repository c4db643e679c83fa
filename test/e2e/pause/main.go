// Command pause is the first process of a pod's sandbox.
package main

import (
	"syscall"

	"github.com/overlay-cni/overlay-cni/test/e2e/internal/reaper"
)

func main() { reaper.Run(syscall.SIGINT, syscall.SIGTERM) }
