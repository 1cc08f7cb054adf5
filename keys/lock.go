package keys

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lockPoll is how often a waiting writer asks again. flock(2) cannot wait with a
// context, writers hold the lock for milliseconds (a TPM: about a second).
const lockPoll = 20 * time.Millisecond

// lock takes the writers' lock of the ring, a flock(2) on <ring>.lock, and waits
// for it until ctx ends (then the error matches ErrBusy). The kernel drops the lock
// with the process, so a crash leaves none behind.
func (s store) lock(ctx context.Context) (unlock func(), err error) {
	f, err := os.OpenFile(s.path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock key ring: %w", err)
	}
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("%w: %s is held by another process: %w", ErrBusy, f.Name(), ctx.Err())
		}
	}
}
