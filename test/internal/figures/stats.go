package figures

import (
	"fmt"
	"math"
	"slices"
)

// Percentile returns the value that a share q (0 to 1) of all values does not
// exceed (nearest rank), or NaN if there are no values.
func Percentile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(q * float64(len(sorted))))
	return sorted[max(rank, 1)-1]
}

// Median returns the middle value, or NaN if there are no values.
func Median(values []float64) float64 { return Percentile(values, 0.5) }

// Number writes a value with so many decimals, and NaN as "-".
func Number(v float64, decimals int) string {
	if math.IsNaN(v) {
		return "-"
	}
	return fmt.Sprintf("%.*f", decimals, v)
}
