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

// ErrPath says that a path cannot be named in mount options.
var ErrPath = errors.New("path cannot be named in mount options")

// Mount describes one mount for another process to make, in the words of containerd's
// mount.Mount: the kernel's type, a source and options.
type Mount struct {
	Type    string
	Source  string
	Options []string
}

// specFeatures are the overlay options in a mount that others make. BuildKit compares layers by
// their upper directories only where it knows every option, and it knows none but these, the
// directories and userxattr (util/overlay/overlay_linux.go, GetOverlayLayers).
var specFeatures = []feature{
	{"index", "index=off"},
	{"redirect_dir", "redirect_dir=off"},
}

// Attach shows the image of a layer at a directory, for a [Mount] that names it. The image stays
// open until both are unmounted. BuildKit and others compare the paths in two mounts: a layer is
// to be attached once, at one path, for all that stand on it.
func (s *Stack) Attach(ctx context.Context, r layer.Record, at string) error {
	chain, err := s.open(ctx, []layer.Record{r})
	if err != nil {
		return err
	}
	image := filepath.Dir(chain.view.Content(0))
	return errors.Join(mounts.Bind(image, at), chain.Close(ctx))
}

// Spec describes the mount of attached layers, for other processes to make as long as the layers
// are attached. Their directories are named from the layer itself to the lowest; writable is that
// of the layer itself.
func Spec(attached []string, writable bool) (Mount, error) {
	if len(attached) == 0 {
		return Mount{}, ErrNoContent
	}
	contents := make([]string, 0, len(attached))
	for _, dir := range attached {
		if strings.ContainsAny(dir, `,:\`) {
			return Mount{}, fmt.Errorf(`%w: %s has one of , : \ in it`, ErrPath, dir)
		}
		contents = append(contents, filepath.Join(dir, crypt.DirDiff))
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
	// Without an upper directory the mount is read-only. No option says so: the kernel knows,
	// BuildKit does not know the option.
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
