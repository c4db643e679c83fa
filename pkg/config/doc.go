// Package config holds the settings of the daemon: one YAML file, each key
// also a flag.
//
// Invariant: everything about a setting stands in one row of one table
// (settings.go), and YAML values, flags and defaults go through the same
// function of that row. So a Config holds validated values only, wherever they
// came from. A flag wins over the file, the file over the default.
package config
