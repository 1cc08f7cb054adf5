package driver_test

import (
	"context"
	"os"
	"testing"

	"layervault/driver"
	"layervault/driver/drivertest"
	"layervault/layer"
	"layervault/layer/layertest"
)

// noKeys stands for an open vault: plain images ask for no key.
type noKeys struct{}

func (noKeys) Passphrase(string, string, string) ([]byte, error) { return nil, nil }

func plain(cfg *driver.Config) {
	cfg.Unlock = func(context.Context) (driver.KeySource, error) { return noKeys{}, nil }
	cfg.Devices = func(driver.KeySource) layer.Devices { return layertest.Devices }
	cfg.SweepDevices = func(context.Context) error { return nil }
}

// TestMain keeps the images in memory where it can: there is no power to cut here, and
// the many fsyncs would make minutes of seconds.
func TestMain(m *testing.M) {
	if fi, err := os.Stat("/dev/shm"); err == nil && fi.IsDir() {
		if err := os.Setenv("TMPDIR", "/dev/shm"); err != nil {
			panic(err)
		}
	}
	drivertest.Main(m, plain)
}

func TestDriver(t *testing.T) { drivertest.Run(t, plain) }
