// Package figures is what the benchmarks share: statistics, tables, and the
// description of the machine that the figures come from.
package figures
