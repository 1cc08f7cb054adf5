package area_test

import (
	"testing"

	"layervault/area"
	"layervault/area/areatest"
)

func TestAreas(t *testing.T) { areatest.Run(t, areatest.Devices) }

// The floor is a share of the disk, within bounds.
func TestFloorOf(t *testing.T) {
	for total, want := range map[int64]int64{
		0: 0, 100 << 20: 50 << 20, 1 << 30: 256 << 20, 8 << 30: 512 << 20, 32 << 30: 2 << 30, 64 << 30: 4 << 30, 1 << 40: 4 << 30,
	} {
		if got := area.FloorOf(total); got != want {
			t.Errorf("%d: %d, want %d", total, got, want)
		}
	}
}
