//go:build !race

package hosts

import "time"

// mended is how long it may take until damage is mended.
const mended = 2 * time.Second

// dearness is how many times dearer than usual everything is.
const dearness = 1

var daemonBuild = plain
