package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// sourceName is the file of a container that knows its mount points.
const sourceName = "src.json"

// maxSource bounds run.json and src.json, in bytes, as device.json is.
const maxSource = 1 << 20

// ReadSource reads a container's run.json or src.json for Compose, and the src.json beside a
// run.json.
func ReadSource(file string) (in Source, err error) {
	if in.Text, err = readSource(file); err != nil {
		return in, err
	}
	whole, err := filepath.Abs(file)
	if err != nil {
		return in, err
	}
	in.Folder = filepath.Base(filepath.Dir(whole))
	if filepath.Base(file) == sourceName {
		return in, nil
	}
	in.Src, err = readSource(filepath.Join(filepath.Dir(file), sourceName))
	if errors.Is(err, fs.ErrNotExist) {
		in.Src, err = nil, nil
	}
	return in, err
}

func readSource(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxSource+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) > maxSource {
		return nil, fmt.Errorf("%w: %s is longer than %d bytes", ErrBadFile, name, maxSource)
	}
	return data, nil
}

// Shell is the container as docker commands: its volumes, and docker run. driver is the name
// of the volume plugin.
func (c Container) Shell(driver string) string {
	var b strings.Builder
	run := []string{"docker run --name " + c.Name}
	for _, m := range c.Mounts {
		fmt.Fprintf(&b, "docker volume create -d %s %s %s\n", driver, strings.Join(m.Flags(), " "), m.Volume)
		run = append(run, fmt.Sprintf("--mount 'type=volume,volume-driver=%s,source=%s,target=%s'", driver, m.Volume, m.Target))
		if note := m.Note(); note != "" {
			fmt.Fprintf(&b, "# %s\n", note)
		}
	}
	return b.String() + strings.Join(run, " \\\n  ") + " IMAGE\n"
}
