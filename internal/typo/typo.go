// Package typo measures how far a wrong word is from a right one, to suggest what
// was meant.
package typo

import (
	"slices"
	"strings"
)

// Limit is the most typos that a word may have and still be similar to another.
func Limit(word string) int { return max(1, len(word)/3) }

// maxTyped, in bytes, bounds the work for a key that is much longer than a word.
const maxTyped = 64

// Count returns how many letters were added, left out, replaced or swapped between a
// and b. Case does not count. The measure is the restricted Damerau-Levenshtein
// distance (optimal string alignment), which edits no substring twice.
func Count(a, b string) int {
	a, b = strings.ToLower(a), strings.ToLower(b)
	if max(len(a), len(b)) > maxTyped {
		return max(len(a), len(b))
	}
	// rows[i][j] is the distance of a[:i] and b[:j].
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			rows[i][j] = step(rows, a[:i], b[:j])
		}
	}
	return rows[len(a)][len(b)]
}

// step returns the distance of a and b from the distances of their prefixes in rows.
func step(rows [][]int, a, b string) int {
	i, j := len(a), len(b)
	replaced := rows[i-1][j-1]
	if a[i-1] != b[j-1] {
		replaced++
	}
	best := slices.Min([]int{rows[i-1][j] + 1, rows[i][j-1] + 1, replaced})
	if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
		best = min(best, rows[i-2][j-2]+1)
	}
	return best
}
