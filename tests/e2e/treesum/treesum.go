// Package treesum describes a file tree in text, one line a file, so that two
// trees can be compared byte for byte with a plain diff: what a layer tar says,
// what overlay2 shows and what layervault shows must give the same lines.
package treesum

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"sort"
	"strings"
)

// Entry is one file of a tree.
type Entry struct {
	Path   string            // relative to the root, without a leading slash; "." is the root
	Type   byte              // f, d, l, c, b, p (as find -printf %y)
	Mode   uint32            // permission, setuid, setgid and sticky bits (07777)
	UID    int               // as seen where the tree was read
	GID    int               //
	Size   int64             // bytes, regular files only
	MTime  int64             // seconds, regular files and symlinks only
	Sum    string            // SHA-256 of the content, hex, regular files only
	Target string            // symlinks only
	Device string            // "major:minor", devices only
	Link   string            // the first path (in byte order) of the same inode, where there are several
	Xattrs map[string]string // name -> raw value
}

// Tree is a set of entries by path.
type Tree map[string]*Entry

// Write prints the tree in the order of its paths.
func (t Tree) Write(w io.Writer) error {
	paths := make([]string, 0, len(t))
	for p := range t {
		paths = append(paths, p)
	}
	sort.Strings(paths)
	for _, p := range paths {
		if _, err := fmt.Fprintln(w, t[p]); err != nil {
			return err
		}
	}
	return nil
}

// String is the entry's line.
func (e *Entry) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%c %04o %d:%d", e.Type, e.Mode, e.UID, e.GID)
	if e.Type == 'f' || e.Type == 'l' {
		fmt.Fprintf(&b, " t=%d", e.MTime)
	}
	if e.Type == 'f' {
		fmt.Fprintf(&b, " n=%d %.16s", e.Size, e.Sum)
	}
	if e.Device != "" {
		fmt.Fprintf(&b, " dev=%s", e.Device)
	}
	names := make([]string, 0, len(e.Xattrs))
	for n := range e.Xattrs {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		fmt.Fprintf(&b, " %s=%.16s", n, hexSum(e.Xattrs[n]))
	}
	fmt.Fprintf(&b, " %q", e.Path)
	if e.Target != "" {
		fmt.Fprintf(&b, " -> %q", e.Target)
	}
	if e.Link != "" && e.Link != e.Path {
		fmt.Fprintf(&b, " same as %q", e.Link)
	}
	return b.String()
}

// linkGroups fills Link from the paths that share an inode (or, in a tar, a
// link target).
func linkGroups[K comparable](t Tree, byInode map[K][]string) {
	for _, paths := range byInode {
		if len(paths) < 2 {
			continue
		}
		sort.Strings(paths)
		for _, p := range paths {
			t[p].Link = paths[0]
		}
	}
}

func hexSum(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
