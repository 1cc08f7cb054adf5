package loop

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Refresh makes an attached loop device as long as its file is now.
func Refresh(number int) error {
	node, err := openNode(number, true)
	if err != nil {
		return err
	}
	defer func() { _ = node.Close() }()
	if err := unix.IoctlSetInt(int(node.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
		return fmt.Errorf("resize /dev/loop%d: %w", number, err)
	}
	return nil
}
