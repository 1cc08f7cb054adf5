package layer

import (
	"errors"
	"fmt"
	"os"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// prepareScratch mounts a private tmpfs over dir. Private, so that what is mounted
// below reaches no other mount namespace; a mount of its own, so that one lazy
// unmount sweeps whatever a killed process left below it.
func prepareScratch(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the scratch directory: %w", err)
	}
	if err := releaseScratch(dir); err != nil {
		return err
	}
	if err := mountScratch(dir); err != nil {
		return err
	}
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return errors.Join(fmt.Errorf("make the scratch directory %s private: %w", dir, err), releaseScratch(dir))
	}
	return nil
}

// mountScratch mounts a tmpfs. No memory to speak of is used: it holds directories
// and symbolic links.
func mountScratch(dir string) error {
	if err := unix.Mount("layervault", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700,size=16m"); err != nil {
		return fmt.Errorf("mount the scratch directory %s: %w", dir, err)
	}
	return nil
}

// releaseScratch detaches what is mounted at dir, with everything below. Images
// that an overlay elsewhere uses live on in it.
func releaseScratch(dir string) error {
	for {
		mounted, err := mountinfo.Mounted(dir)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look at the scratch directory %s: %w", dir, err)
		}
		if !mounted {
			return nil
		}
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount the scratch directory %s: %w", dir, err)
		}
	}
}
