package volume

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// usedFile names the loop devices over a file, "" for none.
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
	return "image file is open as " + strings.Join(names, ", "), nil
}
