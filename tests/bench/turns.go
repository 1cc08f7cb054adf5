package main

import "fmt"

// turns measures some things n times, each once in a turn, from the first to the last and
// in the next turn from the last to the first. What one leaves behind (dirty pages, a
// journal to empty, a client that is still ending) then falls on the first and the last
// alike, and a machine that gets slower meanwhile slows all of them.
// It answers one series for each thing; the i-th value of all was measured in one turn.
func turns(n int, things ...func(turn int) (float64, error)) ([][]float64, error) {
	series := make([][]float64, len(things))
	for turn := range n {
		for i := range things {
			at := place(turn, i, len(things))
			v, err := things[at](turn)
			if err != nil {
				return nil, fmt.Errorf("turn %d: %w", turn+1, err)
			}
			series[at] = append(series[at], v)
		}
	}
	return series, nil
}

// place says which of n things is the i-th of a turn, both from 0.
func place(turn, i, n int) int {
	if turn%2 == 1 {
		return n - 1 - i
	}
	return i
}
