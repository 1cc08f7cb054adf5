package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
)

// A plot shows the ratios of a run that have a goal or were measured in turns: one line for
// each, a dot at the median, a bar where the median lies with a chance of nine in ten, and a
// mark at the goal. The axis is logarithmic, so that half and double are equally far from one.
const (
	plotWidth  = 960
	plotLeft   = 330 // where the axis begins: names are left of it
	plotRight  = 720 // where it ends: numbers are right of it
	plotTop    = 70
	plotRow    = 38
	plotBottom = 50
)

// marks are the values that an axis may have.
var marks = []float64{0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.5, 2, 3, 5, 10}

// errNothingToPlot is a result without any such ratio.
var errNothingToPlot = errors.New("no ratio to draw")

// plotFiles draws each result of a JSON file into an SVG file beside it.
func plotFiles(names []string) error {
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		var r result
		if err := json.Unmarshal(raw, &r); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		var b strings.Builder
		if err := plot(&b, r); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := os.WriteFile(strings.TrimSuffix(name, filepath.Ext(name))+".svg", []byte(b.String()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// axis turns ratios into places.
type axis struct{ low, high float64 }

// newAxis holds all of the values, and one.
func newAxis(values []float64) axis {
	a := axis{1, 1}
	for _, v := range values {
		a.low, a.high = min(a.low, v), max(a.high, v)
	}
	low, high := marks[0], marks[len(marks)-1]
	for _, m := range marks {
		if m <= a.low*0.99 {
			low = m
		}
	}
	for i := len(marks) - 1; i >= 0; i-- {
		if marks[i] >= a.high*1.01 {
			high = marks[i]
		}
	}
	return axis{low, high}
}

func (a axis) at(v float64) float64 {
	v = min(max(v, a.low), a.high)
	part := math.Log(v/a.low) / math.Log(a.high/a.low)
	return math.Round(10*(plotLeft+part*(plotRight-plotLeft))) / 10
}

// ticks are marks on the axis that leave room for their labels; one is always there.
func (a axis) ticks() []float64 {
	const room = 36
	chosen := []float64{1}
	for _, m := range marks {
		free := m >= a.low && m <= a.high
		for _, c := range chosen {
			free = free && math.Abs(a.at(m)-a.at(c)) >= room
		}
		if free {
			chosen = append(chosen, m)
		}
	}
	return chosen
}

func plot(w io.Writer, r result) error {
	var rows []row
	var values []float64
	for _, r := range r.Rows {
		if r.Ratio == 0 || r.Between == nil && r.Goal == 0 {
			continue
		}
		rows = append(rows, r)
		values = append(values, r.Ratio)
		if r.Between != nil {
			values = append(values, r.Between[:]...)
		}
		if r.Goal != 0 {
			values = append(values, r.Goal)
		}
	}
	if len(rows) == 0 {
		return errNothingToPlot
	}
	a := newAxis(values)
	end := plotTop + plotRow*len(rows)
	height := end + plotBottom
	p := &svg{w: w}
	p.say(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="'DejaVu Sans', Verdana, sans-serif">`,
		plotWidth, height, plotWidth, height)
	p.say(`<rect width="100%%" height="100%%" fill="#ffffff"/>`)
	p.text(20, 26, 15, "start", "bold", "layervault, as a ratio to what it is compared with")
	p.text(20, 46, 12, "start", "normal", fmt.Sprintf("%s; %s, kernel %s, processors: %d",
		r.Date.Format("2006-01-02"), r.Machine.CPU, r.Machine.Kernel, r.Machine.CPUs))
	for _, v := range a.ticks() {
		color := "#cbd2d9"
		if v == 1 {
			color = "#1f2933"
		}
		p.say(`<line x1="%g" y1="%d" x2="%g" y2="%d" stroke="%s"/>`, a.at(v), plotTop-6, a.at(v), end, color)
		p.text(a.at(v), float64(end+18), 12, "middle", "normal", fmt.Sprint(v))
	}
	for i, r := range rows {
		p.row(a, r, float64(plotTop+plotRow*i+plotRow/2))
	}
	p.text(20, float64(end+40), 12, "start", "normal", "dot: median of the turns; bar: where it lies with a chance of nine in ten; triangle: goal, pointing to the good side")
	p.say(`</svg>`)
	return p.err
}

// svg writes a picture; its first error stays.
type svg struct {
	w   io.Writer
	err error
}

func (p *svg) say(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

func (p *svg) text(x, y float64, size int, anchor, weight, s string) {
	p.say(`<text x="%g" y="%g" font-size="%d" text-anchor="%s" font-weight="%s" fill="#1f2933">%s</text>`, x, y, size, anchor, weight, html.EscapeString(s))
}

// row draws one measurement at a height.
func (p *svg) row(a axis, r row, y float64) {
	color := "#486581"
	if r.Holds != nil {
		color = "#b83220"
		if *r.Holds {
			color = "#27733f"
		}
	}
	p.text(20, y-1, 13, "start", "normal", r.Name)
	p.text(20, y+13, 11, "start", "normal", "compared with "+r.What)
	numbers := fmt.Sprintf("%.2f", r.Ratio)
	if r.Between != nil {
		p.say(`<line x1="%g" y1="%g" x2="%g" y2="%g" stroke="%s" stroke-width="6" stroke-opacity="0.35"/>`, a.at(r.Between[0]), y, a.at(r.Between[1]), y, color)
		numbers += fmt.Sprintf(" (%s)", r.span())
	}
	p.say(`<circle cx="%g" cy="%g" r="5" fill="%s"/>`, a.at(r.Ratio), y, color)
	if r.Goal != 0 {
		x, tip, sign := a.at(r.Goal), -8.0, "at most"
		if r.AtLeast {
			tip, sign = 8, "at least"
		}
		p.say(`<path d="M %g %g L %g %g L %g %g Z" fill="none" stroke="#1f2933"/>`, x, y-7, x, y+7, x+tip, y)
		numbers += fmt.Sprintf(", %s %.4g", sign, r.Goal)
	}
	p.text(plotRight+16, y+4, 12, "start", "normal", numbers)
}
