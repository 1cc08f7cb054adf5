package mounts

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// MostHolders bounds how many users of a file system a message names.
const MostHolders = 5

// HoldersOf says, for people, which processes have something open on the file system that
// a path lies on. It sees the processes that /proc shows.
func HoldersOf(at string) string {
	var st unix.Stat_t
	if err := unix.Stat(at, &st); err != nil {
		return "used by an unknown process: " + err.Error()
	}
	return HoldersOfDevice(st.Dev) //nolint:unconvert // 32 bit has another type
}

// HoldersOfDevice says the same of a device's file system.
func HoldersOfDevice(dev uint64) string {
	switch found := holders(dev); {
	case len(found) == 0:
		return "used by a process that is not visible here (in a container or another mount namespace)"
	case len(found) > MostHolders:
		return "used by " + strings.Join(found[:MostHolders], ", ") + fmt.Sprintf(" and %d more", len(found)-MostHolders)
	default:
		return "used by " + strings.Join(found, ", ")
	}
}

// holders finds the processes that use a file system: by a working directory, an open
// file, or as the first of a mount namespace that has it mounted.
func holders(dev uint64) []string {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	seen := map[string]bool{} // mount namespaces
	if own, err := os.Readlink("/proc/self/ns/mnt"); err == nil {
		seen[own] = true
	}
	var found []string
	for _, proc := range procs {
		why := whyHolder(proc, dev)
		if ns, err := os.Readlink(filepath.Join(proc, "ns/mnt")); why == "" && err == nil && !seen[ns] {
			seen[ns] = true
			if infos, err := ofProcess(proc, OnDevice(dev)); err == nil && len(infos) > 0 {
				why = "mount at " + infos[0].Mountpoint
			}
		}
		if why == "" || proc == fmt.Sprintf("/proc/%d", os.Getpid()) {
			continue
		}
		name, _ := os.ReadFile(filepath.Join(proc, "comm")) // a process that went has no name
		found = append(found, fmt.Sprintf("process %s (%s, %s)", filepath.Base(proc), strings.TrimSpace(string(name)), why))
	}
	return found
}

// whyHolder says what a process itself has open on a device's file system, "" for nothing.
func whyHolder(proc string, dev uint64) string {
	why := ""
	for _, link := range []string{"cwd", "root"} {
		if onDevice(filepath.Join(proc, link), dev) {
			why = link
		}
	}
	files, _ := filepath.Glob(filepath.Join(proc, "fd", "*"))
	if why == "" && slices.ContainsFunc(files, func(f string) bool { return onDevice(f, dev) }) {
		why = "open file"
	}
	return why
}

func onDevice(path string, dev uint64) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Dev == dev //nolint:unconvert // 32 bit has another type
}
