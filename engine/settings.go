package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Proxy is a plugin of containerd that is another program.
type Proxy struct {
	Type    string `json:"type"`
	Address string `json:"address"`
	Exports string `json:"exports_root,omitempty"` // exports.root
}

// Settings are what a configuration says, imports included, of what layervault needs.
type Settings struct {
	Format  int      // of the main file: version = N, 1 for none
	Files   []string // in the order in which they count
	Address string   // of containerd's socket
	Root    string
	Proxies map[string]Proxy
	Differs []string // of the diff service, in their order
	// Unpack are the snapshotters that the transfer service may unpack for, with their differs. nil
	// where nothing is said, and the default counts.
	Unpack []Unpack
	// CRI is the snapshotter of Kubernetes, "" for the default.
	CRI string
}

// Unpack is one entry of the transfer service.
type Unpack struct{ Snapshotter, Differ string }

// maxFiles bounds the imports that are followed.
const maxFiles = 1000

// maxConfig bounds a configuration file: the largest default one has 20 KiB.
const maxConfig = 4 << 20

// Read reads a configuration as containerd does: the main file, then its imports, theirs, and so
// on; the last one that says something counts. A main file that does not exist says nothing.
func (h Host) Read(path string) (*Settings, error) {
	data, err := readFile(h.At(path))
	if errors.Is(err, fs.ErrNotExist) {
		return &Settings{}, nil
	}
	if err != nil {
		return nil, err
	}
	return h.read(path, data)
}

// read is Read with the content of the main file.
func (h Host) read(path string, data []byte) (*Settings, error) {
	s := &Settings{Proxies: map[string]Proxy{}}
	pending := []string{path}
	for len(pending) > 0 && len(s.Files) < maxFiles {
		at := pending[0]
		pending = pending[1:]
		if slices.Contains(s.Files, at) {
			continue
		}
		if at != path {
			var err error
			if data, err = readFile(h.At(at)); err != nil {
				return nil, err
			}
		}
		d, err := parse(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		s.merge(d.tree)
		s.Files = append(s.Files, at)
		imports, err := h.imports(at, texts(d.tree, "imports"))
		if err != nil {
			return nil, err
		}
		pending = append(pending, imports...)
	}
	return s, nil
}

// readFile reads a file of configuration.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxConfig {
		return nil, fmt.Errorf("%s: must be a regular file of at most %d bytes", path, maxConfig)
	}
	return os.ReadFile(path)
}

// imports are the files that a file names: patterns too, relative to its own folder.
func (h Host) imports(from string, names []string) (paths []string, err error) {
	for _, name := range names {
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(from), name)
		}
		if !strings.Contains(name, "*") {
			paths = append(paths, filepath.Clean(name))
			continue
		}
		matches, err := filepath.Glob(h.At(name))
		if err != nil {
			return nil, fmt.Errorf("%s: imports %q: %w", from, name, err)
		}
		for _, m := range matches {
			paths = append(paths, "/"+strings.TrimLeft(strings.TrimPrefix(m, h.Root), "/"))
		}
	}
	return paths, nil
}

// merge takes over what one more file says.
func (s *Settings) merge(tree map[string]any) {
	if s.Format == 0 {
		s.Format = formatOf(tree)
	}
	for _, value := range []struct {
		into *string
		said string
	}{
		{&s.Root, text(tree, "root")},
		{&s.Address, text(tree, "grpc", "address")},
		{&s.Address, text(tree, "plugins", "io.containerd.server.v1.grpc", "address")}, // format 4
		{&s.CRI, text(tree, "plugins", "cri", "containerd", "snapshotter")},
		{&s.CRI, text(tree, "plugins", "io.containerd.grpc.v1.cri", "containerd", "snapshotter")},
		{&s.CRI, text(tree, "plugins", "io.containerd.cri.v1.images", "snapshotter")},
	} {
		if value.said != "" {
			*value.into = value.said
		}
	}
	proxies, _ := lookup(tree, "proxy_plugins").(map[string]any)
	for name := range proxies {
		s.Proxies[name] = Proxy{
			Type: text(proxies, name, "type"), Address: text(proxies, name, "address"), Exports: text(proxies, name, "exports", "root"),
		}
	}
	for _, id := range []string{"diff-service", diffService} {
		if list := texts(tree, "plugins", id, "default"); list != nil {
			s.Differs = list
		}
	}
	for _, entry := range tablesAt(tree, "plugins", transferService, "unpack_config") {
		s.Unpack = append(s.Unpack, Unpack{Snapshotter: text(entry, "snapshotter"), Differ: text(entry, "differ")})
	}
}

// formatOf is the version of a file: 1 if it names none.
func formatOf(tree map[string]any) int {
	if n, ok := tree["version"].(int64); ok && n > 0 && n < 100 {
		return int(n)
	}
	return 1
}
