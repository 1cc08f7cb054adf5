package plugin

import (
	"fmt"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// memoryLimit makes the garbage collector work harder before the plugin grows past it; it is no
// hard limit. Importing layers makes garbage fast, and the plugin is to stay below 64 MiB, runtime
// included.
const memoryLimit = 48 << 20

// Limit bounds what this process and the programs that it starts may do: the memory of the one,
// and core dumps of the others, which inherit this and do not inherit being undumpable.
func Limit() error {
	debug.SetMemoryLimit(memoryLimit)
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	return nil
}
