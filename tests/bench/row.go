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
	// Ratio is the median of what ours / other is in each turn, or that of the medians where
	// they were not measured in turns, or 0 where there is nothing to compare with.
	Ratio float64 `json:"ratio,omitempty"`
	// Between holds the ratio with a chance of nine in ten or more; where turns are too few
	// for that, it is the lowest and the highest.
	Between *[2]float64 `json:"between,omitempty"`

	// Goal bounds Ratio, or OursMedian where there is no ratio; "" for what is only
	// told. AtLeast says from which side.
	Goal    float64 `json:"goal,omitempty"`
	AtLeast bool    `json:"at_least,omitempty"`
	Holds   *bool   `json:"holds,omitempty"`
}

// pair makes a row of two series measured in the same turns; goal 0 means that none was set.
func pair(name, unit, what string, ours, other []float64, goal float64, atLeast bool) row {
	r := row{Name: name, Unit: unit, What: what, Ours: ours, Other: other, Goal: goal, AtLeast: atLeast}
	r.OursMedian, r.OtherMedian = median(ours), median(other)
	ratios := make([]float64, len(ours))
	for i := range ours {
		ratios[i] = ours[i] / other[i]
	}
	r.Ratio = round3(median(ratios))
	low, high := around(ratios)
	r.Between = &[2]float64{round3(low), round3(high)}
	r.judge(r.Ratio)
	return r
}

// apart makes a row of two series that were measured one after the other; it has no goal.
func apart(name, unit, what string, ours, other []float64) row {
	r := row{Name: name, Unit: unit, What: what, Ours: ours, Other: other, OursMedian: median(ours), OtherMedian: median(other)}
	r.Ratio = round3(r.OursMedian / r.OtherMedian)
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

// span is Between for people.
func (r *row) span() string {
	if r.Between == nil {
		return "-"
	}
	return fmt.Sprintf("%.2f-%.2f", r.Between[0], r.Between[1])
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

// around is the narrowest interval, from one of the values to another, that holds their
// true median with a chance of at least nine in ten. It takes nothing for granted but that
// the values are independent: one is below the median as often as above (the sign test).
// Fewer than five values never say as much; then it is their whole span.
func around(v []float64) (low, high float64) {
	s := slices.Sorted(slices.Values(v))
	n, k := len(s), 0
	// below is the chance that k values or fewer, of n, are below the median: when more
	// than one in twenty, the k-th from either end is no bound any more.
	combinations, below := 1.0, math.Exp2(-float64(n))
	for below <= 0.05 {
		k++
		combinations *= float64(n-k+1) / float64(k)
		below += combinations * math.Exp2(-float64(n))
	}
	k = max(k-1, 0)
	return s[k], s[n-1-k]
}

func round3(v float64) float64 { return math.Round(v*1000) / 1000 }

func printTable(w io.Writer, rows []row) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "MEASURED\tLAYERVAULT\tCOMPARED WITH\t\tRATIO\tBETWEEN\tGOAL\t")
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
		fmt.Fprintf(tw, "%s\t%.4g %s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, r.OursMedian, r.Unit, r.What, other, ratio, r.span(), goal, verdict)
	}
	return tw.Flush()
}
