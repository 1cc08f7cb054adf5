package main

import (
	"strings"
	"testing"
)

func TestJudge(t *testing.T) {
	for name, c := range map[string]struct {
		r    row
		want string
	}{
		"below an upper bound": {pair("a", "s", "overlay2", []float64{7, 9, 8}, []float64{10, 20, 12}, 0.75, false), "0.67   <= 0.75  holds"},
		"above an upper bound": {pair("a", "s", "overlay2", []float64{10}, []float64{10}, 0.75, false), "1.00   <= 0.75  MISSED"},
		"below a lower bound":  {pair("a", "MB/s", "direct", []float64{90}, []float64{100}, 0.97, true), "0.90   >= 0.97  MISSED"},
		"no goal":              {pair("a", "s", "overlay2", []float64{1}, []float64{2}, 0, false), "0.50   -"},
		"a bound of its own":   {single("a", "MiB", []float64{9, 7}, 8), "-      <= 8  holds"},
	} {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			if err := printTable(&b, []row{c.r}); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(b.String(), c.want) {
				t.Errorf("%q is not in\n%s", c.want, b.String())
			}
		})
	}
}
