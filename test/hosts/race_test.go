//go:build race

package hosts

import "os"

// dearness is how many times dearer everything is.
const dearness = 10

// The daemon runs with the race detector where the tests do, and ends at a race,
// which no test fails to notice.
var daemonBuild = func() builder {
	_ = os.Setenv("GORACE", "halt_on_error=1")
	return builder{flags: []string{"-race"}, env: []string{"CGO_ENABLED=1"}}
}()
