package vault

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"layervault/crypt"
	"layervault/crypt/luks2"
	"layervault/keys"
	"layervault/layer"
	"layervault/persist"
	"layervault/volume"
)

// ErrOtherImages: the tier holds images of a kind that this layervault does not know.
var ErrOtherImages = errors.New("images of a kind that this layervault does not rotate")

// Images lists the images of the tier: layers, volumes, areas, and disks of type luks. A tier with
// LUKS images of other kinds is ErrOtherImages: a rotation would leave those without a key.
// The known ones are returned all the same.
func (c Contents) Images() ([]*Image, error) {
	images, err := c.KnownImages()
	if err != nil {
		return nil, err
	}
	return images, c.refuseOthers(images)
}

// KnownImages is Images for a caller that takes the key from no image.
func (c Contents) KnownImages() ([]*Image, error) {
	images, err := c.layerImages()
	if err != nil {
		return nil, err
	}
	for kind, dir := range map[string]string{
		crypt.KindVolume: c.Layout.Volumes(c.Tier), crypt.KindDisk: c.Layout.Disks(c.Tier), crypt.KindArea: c.Layout.AreaImages(c.Tier),
	} {
		more, err := namedImages(kind, dir)
		if err != nil {
			return nil, err
		}
		images = append(images, more...)
	}
	for _, im := range images {
		im.wrap = c.Wrap
	}
	// The same order each time, for a person who watches the progress.
	slices.SortFunc(images, func(a, b *Image) int { return strings.Compare(a.Title(), b.Title()) })
	return images, nil
}

func (c Contents) layerImages() (_ []*Image, err error) {
	root := c.Layout.Layers(c.Tier)
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the layers: %w", err)
	}
	r, err := layer.OpenReader(root)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	var images []*Image
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue // the lock, and garbage that the next start of the plugin erases
		}
		im := &Image{Kind: crypt.KindLayer, ID: e.Name(), Path: filepath.Join(root, e.Name(), layer.ImageName)}
		switch _, err := os.Lstat(im.Path); {
		case errors.Is(err, fs.ErrNotExist):
			continue // fresh
		case err != nil:
			return nil, fmt.Errorf("list the layers: %w", err)
		}
		// A record that cannot be read may be mended one day: its image counts.
		rec, err := r.Get(im.ID)
		im.Unused = err == nil && rec.Kind == layer.Fresh
		im.vouched = func(key *keys.TierKey) error { return layer.CheckRecord(root, im.ID, key) }
		images = append(images, im)
	}
	return images, nil
}

// namedImages lists the LUKS images in a folder whose names are part of their keys.
func namedImages(kind, dir string) ([]*Image, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the images: %w", err)
	}
	var images []*Image
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || !e.Type().IsRegular() {
			continue // the lock, and garbage that is erased when volumes are next used
		}
		if kind == crypt.KindVolume && persist.IsEVEName(e.Name()) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		_, err := volume.ParseID(e.Name())
		is := err == nil && kind == crypt.KindVolume || kind == crypt.KindArea && persist.IsArea(e.Name())
		if !is {
			if is, err = isDisk(kind, path); err != nil {
				return nil, fmt.Errorf("list the images: %w", err)
			}
		}
		if is {
			images = append(images, &Image{Kind: kind, ID: e.Name(), Path: path})
		}
	}
	return images, nil
}

// isDisk says whether a file is the image of a disk. One whose first header is damaged opens
// by its second, and must not miss a rotation. In the folder of volumes a stranger is refused:
// it has no key of ours.
func isDisk(kind, path string) (bool, error) {
	if kind != crypt.KindDisk {
		return false, nil
	}
	if is, err := isLUKS(path); is || err != nil {
		return is, err
	}
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	_, err = luks2.Read(f)
	if errors.Is(err, luks2.ErrNotLUKS2) {
		return false, nil
	}
	return err == nil || errors.Is(err, luks2.ErrDamaged), nil
}

// refuseOthers looks for images that are not among the known ones.
func (c Contents) refuseOthers(known []*Image) error {
	layers, volumes, disks, areas := c.Layout.Layers(c.Tier), c.Layout.Volumes(c.Tier), c.Layout.Disks(c.Tier), c.Layout.AreaImages(c.Tier)
	ours := map[string]bool{}
	for _, im := range known {
		ours[im.Path] = true
	}
	err := filepath.WalkDir(c.Layout.Tier(c.Tier), func(path string, e fs.DirEntry, err error) error {
		dir := filepath.Dir(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // went away meanwhile
		case err != nil:
			return err
		case path == layers, e.IsDir() && c.isPoint(path):
			return fs.SkipDir
		case dir == volumes && persist.IsEVEName(e.Name()):
			// EVE's: a guest's disk may be a LUKS image itself, and a container has many files.
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		case !e.Type().IsRegular(), ours[path]:
			return nil
		case isTemporary(path) && (dir == volumes || dir == disks || dir == areas):
			return nil // an image that is being made, or a leftover of a crash
		}
		is, err := isLUKS(path)
		if is {
			return fmt.Errorf("%w: %s", ErrOtherImages, path)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("look for images: %w", err)
	}
	return nil
}

// isPoint says whether an area is mounted at a path when it is open. What is in it lies on the
// area's own image: downloads may well be LUKS images.
func (c Contents) isPoint(path string) bool {
	return c.Tier == persist.Vault && slices.ContainsFunc(persist.Areas, func(a persist.Area) bool { return path == c.Layout.Area(a) })
}

// isTemporary says whether a file is an image that is being made; see crypt.SweepDir.
func isTemporary(path string) bool {
	name := filepath.Base(path)
	return strings.HasPrefix(name, ".") && strings.Contains(name, ".tmp-")
}

// luksMagic begins every LUKS image.
var luksMagic = []byte("LUKS\xba\xbe")

func isLUKS(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	head := make([]byte, len(luksMagic))
	if _, err := f.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return bytes.Equal(head, luksMagic), nil
}
