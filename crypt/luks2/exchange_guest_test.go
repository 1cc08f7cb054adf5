//go:build guest

package luks2_test

import (
	"crypto/rand"
	"os"
	"testing"

	"layervault/crypt/luks2"
)

// TestKernelKeepsAnExchangedImageOpen exchanges the passphrase of an image that the
// kernel has open and that is written to meanwhile, as a container's is during a
// rotation: nobody notices, and the next to open it uses the new one.
func TestKernelKeepsAnExchangedImageOpen(t *testing.T) {
	t.Setenv("DM_DISABLE_UDEV", "1")
	f := newImage(t)
	_, key := mustFormat(t, f, luks2.Params{})
	want := make([]byte, 1<<20)
	rand.Read(want)
	withOpen(t, f.Name(), key, func(dev *os.File) {
		written := make(chan error, 1)
		go func() {
			var err error
			for range 50 {
				if _, err = dev.WriteAt(want, 4096); err == nil {
					err = dev.Sync()
				}
				if err != nil {
					break
				}
			}
			written <- err
		}()
		must(t, luks2.Exchange(t.Context(), f, owner, secret, next, luks2.RandomKeyKDF()))
		must(t, <-written)
		wantData(t, luks2.Params{}, dev, want)
	})
	again, _, err := mustRead(t, f).Unlock(f, next)
	must(t, err)
	withOpen(t, f.Name(), again, func(dev *os.File) { wantData(t, luks2.Params{}, dev, want) })
}
