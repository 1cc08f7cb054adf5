package driver

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"layervault/crypt/luks2"
	"layervault/internal/mounts"
	"layervault/layer"
)

// Status is shown by docker info. It never fails: an unavailable value is reported in
// its row.
func (d *Driver) Status(ctx context.Context) [][2]string {
	s, err := d.session(ctx)
	if err != nil {
		return append([][2]string{{"Vault", "locked"}, {"Reason", oneLine(err.Error())}}, d.cryptRows()...)
	}
	rows := [][2]string{{"Vault", "unlocked"}}
	d.mu.Lock()
	keys := d.keys
	d.mu.Unlock()
	if l, ok := keys.(SlotLister); ok {
		rows = append(rows, [2]string{"Key Slots", strings.Join(l.SlotSummaries(), ", ")})
	}
	rows = append(rows, d.cryptRows()...)
	layers := "unknown"
	if ids, err := s.store.IDs(); err == nil {
		layers = strconv.Itoa(len(ids))
	}
	rows = append(rows, [2]string{"Layers", layers})
	if ids := s.store.Changed(ctx); len(ids) > 0 {
		rows = append(rows, [2]string{"Changed Layers", strings.Join(ids, ", ") + " (blocks on the disk are not what they were; layervault layer verify)"})
	}
	rows = append(rows, [2]string{"Writable Layer Size", units.BytesSize(float64(s.size))})
	rows = append(rows, spaceRows(d.cfg.Layout.Root)...)
	return append(rows,
		[2]string{"Supports d_type", "true"},
		[2]string{"Native Overlay Diff", "true"},
		[2]string{"userxattr", "false"},
	)
}

// cryptRows tells how new images are made.
func (d *Driver) cryptRows() [][2]string {
	p := d.cfg.CryptParams
	cipher := cmp.Or(p.Cipher, luks2.CipherXTS)
	if p.KeySize != 0 {
		cipher += fmt.Sprintf(" (%d bit key)", 8*p.KeySize)
	}
	return [][2]string{
		{"Cipher", cipher},
		{"Sector Size", strconv.Itoa(cmp.Or(p.SectorSize, luks2.DefaultSectorSize))},
	}
}

// spaceRows tells of the file system that holds the images.
func spaceRows(root string) [][2]string {
	rows := [][2]string{{"Encrypted At", root}, {"Backing Filesystem", backingFilesystem(root)}}
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return append(rows, [2]string{"Space", oneLine(err.Error())})
	}
	block := float64(st.Bsize)
	return append(rows,
		[2]string{"Space Used", units.BytesSize(block * float64(st.Blocks-st.Bfree))},
		[2]string{"Space Available", units.BytesSize(block * float64(st.Bavail))},
	)
}

// backingFilesystem is the type of the mount that a directory is on.
func backingFilesystem(dir string) string {
	m, err := mounts.Of(dir)
	if err != nil {
		return "unknown"
	}
	return m.FSType
}

func oneLine(s string) string { return strings.ReplaceAll(s, "\n", "; ") }

// GetMetadata is what docker inspect shows of a layer as GraphDriver.Data. It
// holds no secret.
func (d *Driver) GetMetadata(ctx context.Context, id string) (map[string]string, error) {
	s, r, err := d.lookUp(ctx, id)
	if err != nil {
		return nil, err
	}
	meta := map[string]string{
		"Kind":      string(r.Kind),
		"MergedDir": s.merged(id),
	}
	if r.Kind == layer.Fresh {
		return meta, nil
	}
	meta["ImagePath"] = s.store.ImagePath(id)
	info, err := s.store.ImageInfo(r)
	if err != nil {
		return nil, fmt.Errorf("metadata of layer %s: %w", id, err)
	}
	meta["LUKSUUID"], meta["Cipher"], meta["SectorSize"] = info.UUID, info.Cipher, strconv.Itoa(info.SectorSize)
	if r.Parent != "" {
		meta["LowerLayers"] = r.Parent
		if chain, err := s.store.Chain(r.Parent); err == nil {
			ids := make([]string, 0, len(chain))
			for _, p := range chain {
				ids = append(ids, p.ID)
			}
			meta["LowerLayers"] = strings.Join(ids, ":")
		}
	}
	return meta, nil
}
