//go:build race

package layertar_test

// raceFactor is how much more memory the race detector takes, its shadow of the heap.
const raceFactor = 4
