//go:build !race

package hosts

// dearness is how many times dearer than usual everything is.
const dearness = 1

var daemonBuild = plain
