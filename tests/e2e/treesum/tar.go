package treesum

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// FromTar reads one layer tar without whiteouts, such as docker export writes.
func FromTar(r io.Reader) (Tree, error) {
	t := Tree{}
	links := map[string][]string{} // target -> every name of that inode
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		name := path.Clean(strings.TrimPrefix(h.Name, "/"))
		if perEngine[strings.SplitN(name, "/", 2)[0]] {
			continue
		}
		if h.Typeflag == tar.TypeLink {
			target := path.Clean(strings.TrimPrefix(h.Linkname, "/"))
			of, ok := t[target]
			if !ok {
				return nil, fmt.Errorf("hard link %s to %s, which is not in the tar before it", name, target)
			}
			twin := *of
			twin.Path = name
			t[name] = &twin
			if links[target] == nil {
				links[target] = []string{target}
			}
			links[target] = append(links[target], name)
			continue
		}
		if t[name], err = fromHeader(name, h, tr); err != nil {
			return nil, err
		}
	}
	linkGroups(t, links)
	return t, nil
}

func fromHeader(name string, h *tar.Header, body io.Reader) (*Entry, error) {
	e := &Entry{Path: name, Mode: uint32(h.Mode) & 0o7777, UID: h.Uid, GID: h.Gid}
	for k, v := range h.PAXRecords {
		if x, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			e.Xattrs[x] = v
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		e.Type = 'd'
	case tar.TypeReg:
		e.Type, e.Size, e.MTime = 'f', h.Size, h.ModTime.Unix()
		sum := sha256.New()
		if _, err := io.Copy(sum, body); err != nil {
			return nil, fmt.Errorf("read %s from the tar: %w", name, err)
		}
		e.Sum = hex.EncodeToString(sum.Sum(nil))
	case tar.TypeSymlink:
		e.Type, e.MTime, e.Target = 'l', h.ModTime.Unix(), h.Linkname
	case tar.TypeFifo:
		e.Type = 'p'
	case tar.TypeChar, tar.TypeBlock:
		e.Type = 'c'
		if h.Typeflag == tar.TypeBlock {
			e.Type = 'b'
		}
		e.Device = fmt.Sprintf("%d:%d", h.Devmajor, h.Devminor)
	default:
		return nil, fmt.Errorf("%s: tar type %q is not expected in a layer", name, h.Typeflag)
	}
	return e, nil
}
