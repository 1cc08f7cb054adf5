package volume_test

import (
	"testing"

	"go.uber.org/goleak"

	"layervault/volume/volumetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestVolumes(t *testing.T) {
	volumetest.Run(t, volumetest.Backend{Devices: volumetest.Devices, Many: 20, Sequences: sequences})
}
