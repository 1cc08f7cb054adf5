//go:build race

package convert_test

// raceEnabled: the race detector takes five to ten times the memory.
const raceEnabled = true
