package ext4

import (
	"archive/tar"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/sys/user"

	"layervault/crypt/ext4/image"
)

// Names with a meaning in a layer's tar.
// https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts
const (
	whiteoutPrefix = ".wh."
	metaPrefix     = ".wh..wh." // aufs's own files; of no use to anyone else
	opaqueMark     = ".wh..wh..opq"
)

const (
	overlayPrefix = "trusted.overlay."
	overlayOpaque = "trusted.overlay.opaque"
	paxXattr      = "SCHILY.xattr."
)

// maxPath is PATH_MAX without its NUL: what lies deeper cannot be named in a system call.
const maxPath = 4095

// layer puts the entries of a layer's tar into an image. An entry is not trusted:
//
//   - a name must stay inside; it is taken relative to the content's root;
//   - nothing is followed: a symbolic link's target is only text, a hard link's target
//     must be an earlier entry;
//   - an entry replaces an earlier one of the same name, but a directory stays and
//     takes the later one's owner, mode and times;
//   - whiteouts become overlayfs's, and attributes that steer overlayfs are dropped
//     where the tar brings them itself;
//   - owners are mapped.
type layer struct {
	w    *image.Writer
	ids  user.IdentityMapping
	top  *image.Inode
	root image.Meta // of directories that the tar only implies
	now  time.Time
}

func newLayer(w *image.Writer, o TarOptions, now time.Time) (*layer, error) {
	l := &layer{w: w, ids: user.IdentityMapping{UIDMaps: o.UIDMaps, GIDMaps: o.GIDMaps}, now: now}
	uid, gid, err := l.owner(0, 0)
	if err != nil {
		return nil, err
	}
	l.root = image.Meta{Mode: 0o755, UID: uid, GID: gid, Atime: now, Mtime: now, Ctime: now}
	l.top, err = w.Mkdir(w.Root(), o.Dir, l.root)
	return l, err
}

// add puts one entry into the image.
func (l *layer) add(h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := clean(h.Name)
	if err != nil {
		return err
	}
	if name == "." {
		return l.addTop(h)
	}
	dir, base := path.Split(name)
	if base != opaqueMark && strings.HasPrefix(base, metaPrefix) || strings.Contains("/"+dir, "/"+metaPrefix) {
		return nil
	}
	meta, err := l.meta(h)
	if err != nil {
		return err
	}
	parent, err := l.parents(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return err
	}
	if base == opaqueMark {
		l.w.SetXattr(parent, overlayOpaque, "y")
		return nil
	}
	if hidden, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
		return l.whiteout(parent, hidden, meta)
	}
	return l.file(parent, base, h, meta, content)
}

// clean takes a name relative to the root, as docker does.
func clean(name string) (string, error) {
	if name == "" || len(name) > maxPath || strings.IndexByte(name, 0) >= 0 {
		return "", fmt.Errorf("%w: %d bytes", ErrName, len(name))
	}
	name = path.Clean(strings.TrimLeft(name, "/"))
	if !filepath.IsLocal(name) {
		return "", ErrBreakout
	}
	return name, nil
}

// addTop handles the entry of the root itself.
func (l *layer) addTop(h *tar.Header) error {
	if h.Typeflag != tar.TypeDir {
		return fmt.Errorf("%w: the root is a directory", ErrEntryType)
	}
	meta, err := l.meta(h)
	if err == nil {
		l.w.SetMeta(l.top, meta)
	}
	return err
}

// parents finds the directory an entry lies in and makes what is missing.
func (l *layer) parents(dir string) (*image.Inode, error) {
	at := l.top
	for dir != "" {
		var name string
		name, dir, _ = strings.Cut(dir, "/")
		child := at.Child(name)
		if child == nil || child.IsWhiteout() {
			var err error
			if child, err = l.directory(at, name, l.root); err != nil {
				return nil, err
			}
		}
		if !child.IsDir() {
			return nil, fmt.Errorf("%w: %q", ErrParent, name)
		}
		at = child
	}
	return at, nil
}

// directory makes a directory, or gives one that exists new owner, mode and times.
func (l *layer) directory(parent *image.Inode, name string, meta image.Meta) (*image.Inode, error) {
	old := parent.Child(name)
	if old != nil && old.IsDir() {
		l.w.SetMeta(old, meta)
		return old, nil
	}
	l.w.Unlink(parent, name)
	made, err := l.w.Mkdir(parent, name, meta)
	if err == nil && old != nil && old.IsWhiteout() {
		// What lies below in other layers was deleted first: it must not show through.
		l.w.SetXattr(made, overlayOpaque, "y")
	}
	return made, err
}

// whiteout hides a name of the layers below. Where this layer has the name itself, a
// file hides it anyway and a directory must not let it show through.
func (l *layer) whiteout(parent *image.Inode, name string, meta image.Meta) error {
	if name == "" || name == "." || name == ".." {
		return fmt.Errorf("%w: whiteout of nothing", ErrName)
	}
	switch old := parent.Child(name); {
	case old == nil:
		meta.Mode, meta.Xattrs = 0, nil
		_, err := l.w.Special(parent, name, image.CharDevice, 0, 0, meta)
		return err
	case old.IsDir():
		l.w.SetXattr(old, overlayOpaque, "y")
	}
	return nil
}

// file makes anything but a whiteout.
func (l *layer) file(parent *image.Inode, name string, h *tar.Header, meta image.Meta, content io.Reader) (err error) {
	switch h.Typeflag {
	case tar.TypeDir:
		_, err = l.directory(parent, name, meta)
		return err
	case tar.TypeLink:
		return l.link(parent, name, h.Linkname)
	}
	l.w.Unlink(parent, name)
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		_, err = l.w.File(parent, name, meta, h.Size, content)
	case tar.TypeSymlink:
		_, err = l.w.Symlink(parent, name, h.Linkname, meta)
	case tar.TypeFifo:
		_, err = l.w.Special(parent, name, image.FIFO, 0, 0, meta)
	case tar.TypeChar:
		_, err = l.w.Special(parent, name, image.CharDevice, uint32(h.Devmajor), uint32(h.Devminor), meta)
	case tar.TypeBlock:
		_, err = l.w.Special(parent, name, image.BlockDevice, uint32(h.Devmajor), uint32(h.Devminor), meta)
	default:
		err = fmt.Errorf("%w: %q", ErrEntryType, h.Typeflag)
	}
	return err
}

func (l *layer) link(parent *image.Inode, name, target string) error {
	target, err := clean(target)
	if err != nil {
		return fmt.Errorf("hard link: %w", err)
	}
	at := l.top
	for part := range strings.SplitSeq(target, "/") {
		if at = at.Child(part); at == nil {
			return fmt.Errorf("%w: %q", ErrLinkTarget, target)
		}
	}
	if at.IsDir() || at.IsWhiteout() {
		return fmt.Errorf("%w: %q is no file", ErrLinkTarget, target)
	}
	if parent.Child(name) == at {
		return nil
	}
	l.w.Unlink(parent, name)
	return l.w.Link(parent, name, at)
}
