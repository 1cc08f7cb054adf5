package stack

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"layervault/crypt"
	"layervault/internal/mounts"
	"layervault/layer"
)

// ErrPath says that a path not allowed in mount options.
var ErrPath = errors.New("path not allowed in mount options")

// Mount describes one mount to be made by another process, in the terms of containerd's
// mount.Mount: the kernel's type, a source and options.
type Mount struct {
	Type    string
	Source  string
	Options []string
}

// specFeatures are the overlay options in a mount made by others. BuildKit compares layers by
// their upper directories only if it knows every option, and it knows only these, the
// directories and userxattr (util/overlay/overlay_linux.go, GetOverlayLayers).
var specFeatures = []feature{
	{"index", "index=off"},
	{"redirect_dir", "redirect_dir=off"},
}

// Attach mounts the image of a layer at a directory, for a [Mount] that names it. The image
// stays open until both are unmounted. BuildKit and others compare the paths in two mounts:
// attach a layer once, at one path, for all layers above it.
func (s *Stack) Attach(ctx context.Context, r layer.Record, at string) error {
	chain, err := s.open(ctx, []layer.Record{r})
	if err != nil {
		return err
	}
	image := filepath.Dir(chain.view.Content(0))
	return errors.Join(mounts.Bind(image, at), chain.Close(ctx))
}

// Spec describes the mount of attached layers, for other processes to make while the layers are
// attached. The directories are given from the layer itself to the lowest; writable applies to
// the layer itself. base is a directory to be shown below all of them, "" for none.
func Spec(attached []string, base string, writable bool) (Mount, error) {
	if len(attached) == 0 {
		return Mount{}, ErrNoContent
	}
	contents := make([]string, 0, len(attached)+1)
	for _, dir := range attached {
		if strings.ContainsAny(dir, `,:\`) {
			return Mount{}, fmt.Errorf(`%w: %s contains one of , : \`, ErrPath, dir)
		}
		contents = append(contents, filepath.Join(dir, crypt.DirDiff))
	}
	if base != "" {
		contents = append(contents, base)
	}
	if len(contents) == 1 {
		access := "ro"
		if writable {
			access = "rw"
		}
		return Mount{Type: "bind", Source: contents[0], Options: []string{access, "rbind"}}, nil
	}
	lowers := contents
	var upper []string
	if writable {
		lowers = contents[1:]
		upper = []string{"upperdir=" + contents[0], "workdir=" + filepath.Join(attached[0], crypt.DirWork)}
	}
	// Without an upper directory the mount is read-only. The option "ro" is omitted because
	// BuildKit does not know it.
	rest := append(upper, known(specFeatures)...)
	if len("lowerdir=,")+shortened(lowers)+len(strings.Join(rest, ",")) > maxMountData {
		return Mount{}, tooDeep(len(lowers))
	}
	options := append([]string{"lowerdir=" + strings.Join(lowers, ":")}, rest...)
	return Mount{Type: "overlay", Source: "overlay", Options: options}, nil
}

// shortened is the length of a list of directories as containerd gives it to the kernel where the
// whole would be too long: without the directory that all have in common, which it enters for
// the mount.
func shortened(dirs []string) int {
	common := filepath.Dir(dirs[0])
	for _, dir := range dirs[1:] {
		for common != "/" && !strings.HasPrefix(dir, common+"/") {
			common = filepath.Dir(common)
		}
	}
	length := len(dirs) - 1 // colons
	for _, dir := range dirs {
		length += len(strings.TrimPrefix(strings.TrimPrefix(dir, common), "/"))
	}
	return length
}
