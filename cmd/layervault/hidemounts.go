package main

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// hiddenEnv is set in the environment of a process that hideMounts began.
const hiddenEnv = "LAYERVAULT_MOUNTS_HIDDEN"

// hideMounts gives this process a mount namespace of its own: what it mounts, nobody else sees, and
// the kernel takes down when the process ends, however it ends. Mounts and unmounts of the host
// still arrive.
//
// A namespace belongs to a thread, and Go has many: so one thread leaves the host's and executes
// this program again, which ends all others. That process keeps the number, the streams and the
// command line; there hideMounts does nothing.
func (a *app) hideMounts() error {
	if a.env(hiddenEnv) != "" {
		return nil
	}
	runtime.LockOSThread() // for good: after an error this thread is good for nothing else
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("keep mounts from the host: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	err = unix.Exec(self, append([]string{self}, a.args...), append(os.Environ(), hiddenEnv+"=1"))
	return fmt.Errorf("execute %s again: %w", self, err)
}
