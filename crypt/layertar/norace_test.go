//go:build !race

package layertar_test

const raceFactor = 1
