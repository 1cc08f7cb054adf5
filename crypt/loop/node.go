package loop

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"layervault/internal/devnode"
)

// Major is the device number of all loop devices (Documentation/admin-guide/devices.txt).
const Major = 7

// openNode opens /dev/loopN.
func openNode(n int, readOnly bool) (*os.File, error) {
	return devnode.Open(fmt.Sprintf("/dev/loop%d", n), unix.Mkdev(Major, uint32(n)), readOnly)
}
