package figures

import (
	"math"
	"strings"
	"testing"
)

func TestPercentile(t *testing.T) {
	values := []float64{5, 1, 4, 2, 3}
	for _, tt := range []struct{ q, want float64 }{{0, 1}, {0.2, 1}, {0.5, 3}, {0.99, 5}, {1, 5}} {
		if got := Percentile(values, tt.q); got != tt.want {
			t.Errorf("%v: got %v, want %v", tt.q, got, tt.want)
		}
	}
	if got := Number(Median(nil), 2); got != "-" {
		t.Errorf("of nothing: %s", got)
	}
	if !math.IsNaN(Median(nil)) {
		t.Error("the median of nothing is a number")
	}
}

func TestTableIsMarkdown(t *testing.T) {
	var out strings.Builder
	table := NewTable(&out, "Times", 1, "set", "ms")
	table.Line("one", "1.0")
	table.End()
	const want = "\n### Times\n\n| set | ms   |\n| --- | ---: |\n| one | 1.0  |\n"
	if out.String() != want {
		t.Errorf("got:\n%s", out.String())
	}
}
