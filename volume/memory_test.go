//go:build !guest

package volume_test

import "os"

// sequences is how many the model test does.
const sequences = 200

// The images are kept in memory where that is possible: there is no power to cut here, and
// the many fsyncs would make minutes of seconds.
func init() {
	if fi, err := os.Stat("/dev/shm"); err == nil && fi.IsDir() {
		if err := os.Setenv("TMPDIR", "/dev/shm"); err != nil {
			panic(err)
		}
	}
}
