//go:build !guest

package driver_test

import (
	"context"
	"os"

	"layervault/driver"
	"layervault/layer"
	"layervault/layer/layertest"
)

// noKeys stands for an open vault: plain images ask for no key.
type noKeys struct{}

func (noKeys) Passphrase(int, string, string, string) ([]byte, error) { return nil, nil }

// images makes plain images.
func images(cfg *driver.Config) {
	cfg.Unlock = func(context.Context) (driver.KeySource, error) { return noKeys{}, nil }
	cfg.Devices = func(driver.KeySource) layer.Devices { return layertest.Devices }
	cfg.SweepDevices = func(context.Context) error { return nil }
}

// The images are kept in memory where that is possible: there is no power to cut
// here, and the many fsyncs would make minutes of seconds.
func init() {
	if fi, err := os.Stat("/dev/shm"); err == nil && fi.IsDir() {
		if err := os.Setenv("TMPDIR", "/dev/shm"); err != nil {
			panic(err)
		}
	}
}
