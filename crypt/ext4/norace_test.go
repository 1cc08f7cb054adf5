//go:build !race

package ext4

const raceFactor = 1
