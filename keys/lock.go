package keys

import (
	"context"
	"errors"
	"fmt"
	"os"

	"layervault/internal/flock"
)

// lock takes the writers' lock of the ring, a flock(2) on <ring>.lock, and waits
// for it until ctx ends (then the error matches ErrBusy). The kernel drops the lock
// with the process, so a crash leaves none behind.
func (s store) lock(ctx context.Context) (unlock func(), err error) {
	f, err := os.OpenFile(s.path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock key ring: %w", err)
	}
	if err := flock.Lock(ctx, f, flock.Exclusive); err != nil {
		_ = f.Close()
		if errors.Is(err, flock.ErrHeld) {
			err = fmt.Errorf("%w: %w", ErrBusy, err)
		}
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}
