package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
)

// row is one measurement, as the JSON file has it.
type row struct {
	Name  string    `json:"name"`
	Unit  string    `json:"unit"` // s, MB/s, bytes, ...
	What  string    `json:"what"` // what ours is compared with; "" where there is only a bound
	Ours  []float64 `json:"ours"`
	Other []float64 `json:"other,omitempty"`

	OursMedian  float64 `json:"ours_median"`
	OtherMedian float64 `json:"other_median,omitempty"`
	// Ratio is ours / other, or 0 where there is nothing to compare with.
	Ratio float64 `json:"ratio,omitempty"`

	// Goal bounds Ratio, or OursMedian where there is no ratio; "" for what is only
	// told. AtLeast says from which side.
	Goal    float64 `json:"goal,omitempty"`
	AtLeast bool    `json:"at_least,omitempty"`
	Holds   *bool   `json:"holds,omitempty"`
}

// pair makes a row of two series; goal 0 means that none was set.
func pair(name, unit, what string, ours, other []float64, goal float64, atLeast bool) row {
	r := row{Name: name, Unit: unit, What: what, Ours: ours, Other: other, Goal: goal, AtLeast: atLeast}
	r.OursMedian, r.OtherMedian = median(ours), median(other)
	if r.OtherMedian != 0 {
		r.Ratio = round3(r.OursMedian / r.OtherMedian)
	}
	r.judge(r.Ratio)
	return r
}

// single makes a row that is bounded by itself.
func single(name, unit string, ours []float64, goal float64) row {
	r := row{Name: name, Unit: unit, Ours: ours, OursMedian: median(ours), Goal: goal}
	r.judge(r.OursMedian)
	return r
}

func (r *row) judge(v float64) {
	if r.Goal == 0 {
		return
	}
	holds := v <= r.Goal
	if r.AtLeast {
		holds = v >= r.Goal
	}
	r.Holds = &holds
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

func round3(v float64) float64 { return math.Round(v*1000) / 1000 }

func printTable(w io.Writer, rows []row) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "MEASURED\tLAYERVAULT\tCOMPARED WITH\t\tRATIO\tGOAL\t")
	for _, r := range rows {
		other, ratio, goal, verdict := "-", "-", "-", ""
		if r.What != "" {
			other = fmt.Sprintf("%.4g %s", r.OtherMedian, r.Unit)
			ratio = fmt.Sprintf("%.2f", r.Ratio)
		}
		if r.Holds != nil {
			sign := "<="
			if r.AtLeast {
				sign = ">="
			}
			goal, verdict = fmt.Sprintf("%s %.4g", sign, r.Goal), "holds"
			if !*r.Holds {
				verdict = "MISSED"
			}
		}
		fmt.Fprintf(tw, "%s\t%.4g %s\t%s\t%s\t%s\t%s\t%s\n", r.Name, r.OursMedian, r.Unit, r.What, other, ratio, goal, verdict)
	}
	return tw.Flush()
}
