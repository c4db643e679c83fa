package main

import (
	"math"
	"slices"
)

// percentile is the value that q of all (0 to 1) don't exceed (nearest rank);
// NaN if there is none.
func percentile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(q * float64(len(sorted))))
	return sorted[max(rank, 1)-1]
}

func median(values []float64) float64 { return percentile(values, 0.5) }

func worst(values []float64) float64 { return percentile(values, 0.99) }
