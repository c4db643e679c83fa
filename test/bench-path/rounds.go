package main

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// row is what a set did at a place.
type row struct {
	Place, Set string
	// Note says why nothing was measured; else it is empty.
	Note string `json:",omitempty"`
	// Values of each column, one for each round.
	Values map[string][]float64
	// Failed counts the turns that failed, which are not among the values.
	Failed int
	Error  string `json:",omitempty"` // of the first one that failed
	path   path
}

// rowsOf are a set's, one for each place.
func rowsOf(sets []*set) []*row {
	var rows []*row
	for _, place := range places {
		for _, s := range sets {
			rows = append(rows, &row{Place: place, Set: s.name, Note: s.note, Values: map[string][]float64{}, path: s.paths[place]})
		}
	}
	return rows
}

// play gives each set its turns: at each place all sets carry a load one right after
// the other, then the next load. In round r the order starts with set r.
func play(o options, rows []*row, progress io.Writer) {
	for round := range o.rounds {
		for _, place := range places {
			here := at(place, rows)
			for _, l := range loads(o.streams) {
				fmt.Fprintf(progress, "\rround %d of %d, %s, %-30s", round+1, o.rounds, place, l.columns[0].Name)
				for i := range here {
					here[(round+i)%len(here)].turn(l, o.duration)
				}
			}
		}
	}
	fmt.Fprintln(progress)
}

// at returns the rows of a place.
func at(place string, rows []*row) []*row {
	var here []*row
	for _, r := range rows {
		if r.Place == place {
			here = append(here, r)
		}
	}
	return here
}

func (r *row) turn(l load, d time.Duration) {
	if r.Note != "" {
		return
	}
	values, err := l.run(r.path, d)
	if err != nil {
		if r.Failed++; r.Error == "" {
			r.Error = fmt.Sprintf("%s: %v", l.columns[0].Name, err)
		}
		return
	}
	for i, c := range l.columns {
		r.Values[c.Name] = append(r.Values[c.Name], values[i])
	}
}

// prove checks that a set carries traffic at all places. Paths may need a moment
// after they were made.
func (s *set) prove(patience time.Duration) error {
	var errs []error
	for _, place := range places {
		var err error
		for end := time.Now().Add(patience); time.Now().Before(end); {
			if _, err = requests(s.paths[place], time.Millisecond); err == nil {
				break
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("no traffic within %s between pods on %s: %w", patience, place, err))
		}
	}
	return errors.Join(errs...)
}
