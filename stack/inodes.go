package stack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// ErrInodes: files of one container may show several devices, and change their numbers.
var ErrInodes = errors.New("no stable inode numbers in containers")

// xinoParameter is there where overlayfs knows the mount option xino.
const xinoParameter = "/sys/module/overlay/parameters/xino_auto"

// CheckInodes says why a container's files are not on one device with numbers that last, as
// du -x, tar --one-file-system and backup programs expect; nil where they are. Nothing else
// depends on it.
func CheckInodes() error {
	if strconv.IntSize < 64 {
		return fmt.Errorf("%w: a 32 bit kernel has no room in its inode numbers", ErrInodes)
	}
	if _, err := os.Stat(xinoParameter); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: this kernel's overlayfs has no option xino (Linux 4.17)", ErrInodes)
	}
	var data [2]unix.CapUserData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
		return fmt.Errorf("%w: read the capabilities: %w", ErrInodes, err)
	}
	if data[0].Effective&(1<<unix.CAP_DAC_READ_SEARCH) == 0 {
		return fmt.Errorf("%w: the plugin lacks CAP_DAC_READ_SEARCH: install the plugin anew", ErrInodes)
	}
	return nil
}
