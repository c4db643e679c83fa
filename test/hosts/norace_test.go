//go:build !race

package hosts

var daemonBuild = plain
