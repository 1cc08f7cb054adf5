package volume

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// mostHolders bounds how many users of a volume an error names.
const mostHolders = 5

// HoldersOf says, for people, which processes have something open on the file system that
// a path lies on. It sees the processes that /proc shows.
func HoldersOf(at string) string {
	var st unix.Stat_t
	if err := unix.Stat(at, &st); err != nil {
		return "cannot tell by whom: " + err.Error()
	}
	return describeHolders(holders(st.Dev)) //nolint:unconvert // 32 bit has another type
}

// HoldersOfDevice says the same of a device's file system.
func HoldersOfDevice(dev uint64) string { return describeHolders(holders(dev)) }

func describeHolders(found []string) string {
	switch {
	case len(found) == 0:
		return "used by something that this process cannot see (a container, or another mount namespace)"
	case len(found) > mostHolders:
		return "used by " + strings.Join(found[:mostHolders], ", ") + fmt.Sprintf(" and %d more", len(found)-mostHolders)
	}
	return "used by " + strings.Join(found, ", ")
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
		if ns, err := os.Readlink(filepath.Join(proc, "ns/mnt")); why == "" && err == nil && !seen[ns] {
			seen[ns] = true
			if at := mountedAt(proc, dev); at != "" {
				why = "mount at " + at
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

func onDevice(path string, dev uint64) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Dev == dev //nolint:unconvert // 32 bit has another type
}

// mountedAt finds a file system in a process's mount table.
func mountedAt(proc string, dev uint64) string {
	data, err := os.ReadFile(filepath.Join(proc, "mountinfo"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		// ID, parent, major:minor, root, mount point, ...: proc_pid_mountinfo(5)
		if f := strings.Fields(line); len(f) > 4 && f[2] == deviceNumber(dev) {
			return f[4]
		}
	}
	return ""
}

// usedFile says which loop devices have a file, "" where none has.
func usedFile(path string) (used string, err error) {
	devices, err := os.ReadDir("/sys/block")
	if err != nil {
		return "", fmt.Errorf("look for loop devices: %w", err)
	}
	var names []string
	for _, d := range devices {
		text, err := os.ReadFile(filepath.Join("/sys/block", d.Name(), "loop/backing_file"))
		if err == nil && strings.TrimSuffix(string(text), "\n") == path {
			names = append(names, "/dev/"+d.Name())
		}
	}
	if len(names) == 0 {
		return "", nil
	}
	return "its file is open as " + strings.Join(names, ", "), nil
}
