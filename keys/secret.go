package keys

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"layervault/internal/wipehash"
)

// secret is memory of its own pages: locked (never swapped), left out of core
// dumps, wiped in a forked child. The garbage collector neither moves nor copies it.
type secret struct{ page []byte }

// newSecret maps room for n bytes. It fails when the memory cannot be locked:
// a key that may be swapped out in the clear is not acceptable.
func newSecret(n int) (*secret, error) {
	page, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map memory for a key: %w", err)
	}
	if err := unix.Mlock(page); err != nil {
		_ = unix.Munmap(page)
		return nil, fmt.Errorf("lock memory for a key (raise RLIMIT_MEMLOCK or grant CAP_IPC_LOCK): %w", err)
	}
	for _, advice := range []int{unix.MADV_DONTDUMP, unix.MADV_WIPEONFORK} {
		if err := unix.Madvise(page, advice); err != nil {
			_ = unix.Munmap(page)
			return nil, fmt.Errorf("keep a key out of dumps and forks: %w", err)
		}
	}
	return &secret{page: page}, nil
}

// destroy wipes and unmaps. It may be called twice.
func (s *secret) destroy() error {
	if s.page == nil {
		return nil
	}
	clear(s.page)
	err := unix.Munmap(s.page) // also unlocks
	s.page = nil
	return err
}

// WithSecret lends fn n bytes of memory as keys are kept in, page-aligned and zero, and
// wipes them afterwards: for a provider that takes a key from the kernel or from a device.
func WithSecret(n int, fn func(mem []byte) error) error {
	s, err := newSecret(n)
	if err != nil {
		return err
	}
	return errors.Join(fn(s.page[:n]), s.destroy())
}

// SHA256 hashes parts, one after the other, for data that has a key in it: no copy stays
// behind.
func SHA256(parts ...[]byte) (sum [wipehash.Size]byte, err error) {
	err = WithSecret(wipehash.StateSize, func(mem []byte) error {
		wipehash.In(mem).Sum(&sum, parts...)
		return nil
	})
	return sum, err
}

// NoCoreDumps keeps the whole process out of core dumps and away from debuggers of
// the same user: locked memory holds the keys, but what is derived from them passes
// through ordinary memory (prctl(2), PR_SET_DUMPABLE). Call it before the first key.
func NoCoreDumps() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("switch core dumps off: %w", err)
	}
	return nil
}
