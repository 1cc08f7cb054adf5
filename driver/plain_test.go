//go:build !guest

package driver_test

import (
	"context"
	"os"

	"layervault/crypt"
	"layervault/driver"
	"layervault/layer"
	"layervault/layer/layertest"
)

// images makes plain images.
func images(cfg *driver.Config) {
	cfg.Unlock = func(context.Context) (crypt.KeySource, error) { return layertest.Keys{}, nil }
	cfg.Devices = func(crypt.KeySource) layer.Devices { return layertest.Devices }
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
