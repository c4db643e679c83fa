//go:build !race

package hosts

import "time"

// mended is how long it may take until damage is mended.
const mended = 2 * time.Second

var daemonBuild = plain
