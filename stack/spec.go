package stack

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

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
// their upper directories only where it knows every option, and it knows none but these
// (util/overlay/overlay_linux.go, GetOverlayLayers), the directories and userxattr.
var specFeatures = []feature{
	{"index", "index=off"},
	{"redirect_dir", "redirect_dir=off"},
}

// bindSpec describes a bind mount.
func bindSpec(from string, writable bool) Mount {
	access := "ro"
	if writable {
		access = "rw"
	}
	return Mount{Type: "bind", Source: from, Options: []string{access, "rbind"}}
}

// spec describes the overlay with absolute paths. Without an upper directory no option says that
// the mount is read-only: the kernel knows, and to BuildKit it would be one more unknown option.
// Without a lower directory the kernel does not mount it; containerd's differ only takes the upper
// directory from it, and needs to see that this is one of an overlay.
func (o overlay) spec() (Mount, error) {
	if strings.ContainsAny(o.dir, `,:\`) {
		return Mount{}, fmt.Errorf(`%w: %s has one of , : \ in it`, ErrPath, o.dir)
	}
	at := func(name string) string { return filepath.Join(o.dir, name) }
	m := Mount{Type: "overlay", Source: "overlay"}
	// containerd leaves the common directory of the lowers out of a list that would be too long.
	size := len(strings.Join(o.lowers, ":")) + len("lowerdir=")
	if len(o.lowers) > 0 {
		lowers := make([]string, 0, len(o.lowers))
		for _, name := range o.lowers {
			lowers = append(lowers, at(name))
		}
		m.Options = append(m.Options, "lowerdir="+strings.Join(lowers, ":"))
	}
	var rest []string
	if o.upper != "" {
		rest = append(rest, "upperdir="+at(o.upper), "workdir="+at(o.work))
	}
	rest = append(rest, known(specFeatures)...)
	for _, option := range rest {
		size += len(",") + len(option)
	}
	if size > maxMountData {
		return Mount{}, tooDeep(len(o.lowers))
	}
	m.Options = append(m.Options, rest...)
	return m, nil
}

func tooDeep(lowers int) error {
	return fmt.Errorf("%w: %d lower layers do not fit the kernel's %d bytes of mount options", layer.ErrTooDeep, lowers, maxMountData)
}
