package main

import (
	"reflect"
	"strings"
	"testing"
)

func TestJudge(t *testing.T) {
	for name, c := range map[string]struct {
		r    row
		want string
	}{
		"below an upper bound": {pair("a", "s", "overlay2", []float64{7, 9, 8}, []float64{10, 20, 12}, 0.75, false), "0.67   0.45-0.70  <= 0.75  holds"},
		"above an upper bound": {pair("a", "s", "overlay2", []float64{10}, []float64{10}, 0.75, false), "1.00   1.00-1.00  <= 0.75  MISSED"},
		"below a lower bound":  {pair("a", "MB/s", "direct", []float64{90}, []float64{100}, 0.97, true), "0.90   0.90-0.90  >= 0.97  MISSED"},
		"no goal":              {pair("a", "s", "overlay2", []float64{1}, []float64{2}, 0, false), "0.50   0.50-0.50  -"},
		"a bound of its own":   {single("a", "MiB", []float64{9, 7}, 8), "-      -        <= 8  holds"},
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

func TestAround(t *testing.T) {
	for n, want := range map[int][2]float64{ // of 1..n; chances are those of a table of the sign test
		1:  {1, 1},
		3:  {1, 3},
		5:  {1, 5},  // 1 - 2/32 = 0.94
		7:  {1, 7},  // the second ones would hold it in 1 - 2*8/128 = 0.88
		8:  {2, 7},  // 1 - 2*9/256 = 0.93
		11: {3, 9},  // 1 - 2*67/2048 = 0.93
		16: {5, 12}, // 1 - 2*2517/65536 = 0.92
	} {
		v := make([]float64, n)
		for i := range v {
			v[i] = float64(n - i)
		}
		if low, high := around(v); low != want[0] || high != want[1] {
			t.Errorf("of %d values: %g to %g, want %v", n, low, high, want)
		}
	}
}

// TestTurns: the first and the last of the things must have the same neighbours, or what
// the one between leaves behind falls on one of them only.
func TestTurns(t *testing.T) {
	var order strings.Builder
	thing := func(name string, v float64) func(int) (float64, error) {
		return func(int) (float64, error) { order.WriteString(name); return v, nil }
	}
	got, err := turns(3, thing("a", 1), thing("b", 2), thing("c", 3))
	if err != nil {
		t.Fatal(err)
	}
	if order.String() != "abccbaabc" {
		t.Errorf("order %s, want abccbaabc", order.String())
	}
	if want := [][]float64{{1, 1, 1}, {2, 2, 2}, {3, 3, 3}}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
