package driver_test

import (
	"testing"

	"layervault/driver/drivertest"
)

func TestMain(m *testing.M) { drivertest.Main(m, images) }

// TestDriver runs the conformance suite: on plain images wherever there are loop
// devices and overlayfs, on encrypted ones in the guest (build tag guest).
func TestDriver(t *testing.T) { drivertest.Run(t, images) }
