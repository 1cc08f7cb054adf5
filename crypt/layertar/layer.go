package layertar

import (
	"archive/tar"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/sys/user"

	"layervault/crypt/fswriter"
)

// Names with a meaning in a layer's tar.
// https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts
const (
	whiteoutPrefix = ".wh."
	opaqueMark     = ".wh..wh..opq"
)

const (
	overlayPrefix = "trusted.overlay."
	overlayOpaque = "trusted.overlay.opaque"
	paxXattr      = "SCHILY.xattr."
)

// SocketRecord is the PAX record of a pipe's entry that stands for a socket, which tar does not
// have, in a tar that is taken literally.
const SocketRecord = "LAYERVAULT.socket"

// maxPath is PATH_MAX without its NUL: what lies deeper cannot be named in a system call.
const maxPath = 4095

// layer puts the entries of a layer's tar into an fswriter. An entry is not trusted:
//
//   - a name must stay inside; it is taken relative to the content's root;
//   - a symbolic link of the same tar within a name is followed as in a chroot into the
//     content; where it leads nowhere the entry is refused. Nothing is ever opened: links
//     lead through the image's own directories;
//   - a hard link's target must be an earlier entry, which takes the link's owner, mode,
//     times and attributes;
//   - an entry replaces an earlier one of the same name, but a directory stays and
//     takes the later one's owner, mode and times;
//   - whiteouts become overlayfs's, and attributes that steer overlayfs are dropped
//     where the tar brings them itself. Files that aufs kept for itself (.wh..wh.plnk) get
//     no special care: their names are whiteouts, and what lies below them are files that
//     hard links may name;
//   - owners are mapped;
//   - sparse entries are refused: docker could load them, but never save them again.
//
// The result is what docker's overlay2 makes of the same tar.
type layer struct {
	w    Writer
	ids  user.IdentityMapping
	top  fswriter.Inode
	root fswriter.Meta // of directories that the tar only implies
	now  time.Time
	// literal: see Options.
	literal bool

	implied int // directories made without an entry of their own
}

func newLayer(w Writer, o Options, now time.Time) (*layer, error) {
	l := &layer{w: w, ids: user.IdentityMapping{UIDMaps: o.UIDMaps, GIDMaps: o.GIDMaps}, now: now, literal: o.Literal}
	uid, gid, err := l.owner(0, 0)
	if err != nil {
		return nil, err
	}
	l.root = fswriter.Meta{Mode: 0o755, UID: uid, GID: gid, Atime: now, Mtime: now, Ctime: now}
	l.top, err = w.Mkdir(w.Root(), o.Dir, l.root)
	return l, err
}

// add puts one entry into the fswriter.
func (l *layer) add(h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if isSparse(h) {
		return ErrSparse
	}
	if h.Name == "" {
		return nil // names the root, and says nothing of it
	}
	name, err := clean(h.Name)
	if err != nil {
		return err
	}
	if name == "." {
		return l.addTop(h)
	}
	dir, base := path.Split(name)
	meta, err := l.meta(h)
	if err != nil {
		return err
	}
	parent, err := l.parents(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return err
	}
	if l.literal {
		return l.file(parent, base, h, meta, content)
	}
	if base == opaqueMark {
		return l.w.SetXattr(parent, overlayOpaque, "y")
	}
	if hidden, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
		return l.whiteout(parent, hidden, meta)
	}
	return l.file(parent, base, h, meta, content)
}

// isSparse recognises the four forms of GNU tar. Holes have no length in the stream: a
// tar of 3 KiB may promise 2^60 bytes.
func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
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
	if err != nil {
		return err
	}
	return l.w.SetMeta(l.top, meta)
}

// maxFollow is how many symbolic links a name may lead through, as in the kernel.
const maxFollow = 40

// parents finds the directory an entry lies in and makes what is missing.
func (l *layer) parents(dir string) (fswriter.Inode, error) { return l.walk(dir, true) }

// walk follows a path from the root of the content to a directory, through symbolic
// links too, of which none leads above the root. What is missing is made if make is set,
// but not where a link leads to.
func (l *layer) walk(dir string, make bool) (fswriter.Inode, error) {
	at, links := l.top, 0
	own := len(dir) // how much of dir is left when the last link's target was walked
	for dir != "" {
		var name string
		name, dir, _ = strings.Cut(dir, "/")
		switch name {
		case "", ".":
			continue
		case "..":
			if at != l.top {
				at = l.w.Parent(at)
			}
			continue
		}
		child := l.w.Child(at, name)
		if child == 0 || l.w.IsWhiteout(child) {
			if !make || links > 0 && len(dir) >= own {
				return 0, fmt.Errorf("%w: %.300q", errMissing, name)
			}
			var err error
			if child, err = l.imply(at, name, child); err != nil {
				return 0, err
			}
		}
		if target, ok := l.w.Target(child); ok {
			if links++; links > maxFollow {
				return 0, fmt.Errorf("%w: more than %d symbolic links", ErrParent, maxFollow)
			}
			own = min(own, len(dir))
			if strings.HasPrefix(target, "/") {
				at = l.top
			}
			dir = target + "/" + dir
			continue
		}
		if !l.w.IsDir(child) {
			return 0, fmt.Errorf("%w: %.300q", ErrParent, name)
		}
		at = child
	}
	return at, nil
}

// imply makes a directory that has no entry of its own, yet. Where old is a whiteout,
// what lies below in other layers was deleted first: it must not show through.
func (l *layer) imply(parent fswriter.Inode, name string, old fswriter.Inode) (fswriter.Inode, error) {
	if l.implied++; l.implied > fswriter.MaxImplied {
		return 0, &LimitError{What: "directories without an entry of their own", Limit: fswriter.MaxImplied}
	}
	if old != 0 {
		if err := l.w.Unlink(parent, name); err != nil {
			return 0, err
		}
	}
	made, err := l.w.Mkdir(parent, name, l.root)
	if err == nil && old != 0 {
		err = l.w.SetXattr(made, overlayOpaque, "y")
	}
	return made, err
}

// directory makes a directory, or gives one that exists new owner, mode and times.
func (l *layer) directory(parent fswriter.Inode, name string, meta fswriter.Meta) error {
	if old := l.w.Child(parent, name); old != 0 && l.w.IsDir(old) {
		return l.w.SetMeta(old, meta)
	}
	if err := l.w.Unlink(parent, name); err != nil {
		return err
	}
	_, err := l.w.Mkdir(parent, name, meta)
	return err
}

// whiteout hides a name of the layers below. Where this layer has the name itself, a
// file hides it anyway and a directory must not let it show through.
func (l *layer) whiteout(parent fswriter.Inode, name string, meta fswriter.Meta) error {
	if name == "" || name == "." || name == ".." {
		return fmt.Errorf("%w: whiteout without a name", ErrName)
	}
	switch old := l.w.Child(parent, name); {
	case old == 0:
		meta.Mode, meta.Xattrs = 0, nil
		_, err := l.w.Special(parent, name, fswriter.CharDevice, 0, 0, meta)
		return err
	case l.w.IsDir(old):
		return l.w.SetXattr(old, overlayOpaque, "y")
	}
	return nil
}

// file makes anything but a whiteout.
func (l *layer) file(parent fswriter.Inode, name string, h *tar.Header, meta fswriter.Meta, content io.Reader) (err error) {
	switch h.Typeflag {
	case tar.TypeDir:
		return l.directory(parent, name, meta)
	case tar.TypeLink:
		return l.link(parent, name, h.Linkname, meta)
	}
	if err := l.w.Unlink(parent, name); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont:
		_, err = l.w.File(parent, name, meta, h.Size, content)
	case tar.TypeSymlink:
		_, err = l.w.Symlink(parent, name, h.Linkname, meta)
	case tar.TypeFifo:
		kind := fswriter.FIFO
		if l.literal && h.PAXRecords[SocketRecord] != "" {
			kind = fswriter.Socket
		}
		_, err = l.w.Special(parent, name, kind, 0, 0, meta)
	case tar.TypeChar:
		_, err = l.w.Special(parent, name, fswriter.CharDevice, uint32(h.Devmajor), uint32(h.Devminor), meta)
	case tar.TypeBlock:
		_, err = l.w.Special(parent, name, fswriter.BlockDevice, uint32(h.Devmajor), uint32(h.Devminor), meta)
	default:
		err = fmt.Errorf("%w: %q", ErrEntryType, h.Typeflag)
	}
	return err
}

func (l *layer) link(parent fswriter.Inode, name, target string, meta fswriter.Meta) error {
	target, err := clean(target)
	if err != nil {
		return fmt.Errorf("hard link: %w", err)
	}
	dir, base := path.Split(target)
	at, err := l.walk(strings.TrimSuffix(dir, "/"), false)
	if err != nil {
		return fmt.Errorf("%w: %.300q: %w", ErrLinkTarget, target, err)
	}
	file := l.w.Child(at, base)
	if file == 0 {
		return fmt.Errorf("%w: %.300q", ErrLinkTarget, target)
	}
	if l.w.IsDir(file) {
		return fmt.Errorf("%w: %.300q is not a file", ErrLinkTarget, target)
	}
	if l.w.Child(parent, name) != file {
		if err := l.w.Unlink(parent, name); err != nil {
			return err
		}
		if err := l.w.Link(parent, name, file); err != nil {
			return err
		}
	}
	return l.w.SetMeta(file, meta)
}
