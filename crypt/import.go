package crypt

import (
	"context"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"layervault/crypt/erofs"
	"layervault/crypt/ext4"
	"layervault/crypt/layertar"
	"layervault/crypt/verity"
)

// ImportResult describes a sealed image that was just made.
type ImportResult struct {
	// Size is the sum of the sizes of the content's files in bytes, as docker's
	// overlay2 counts a layer: each inode once, symbolic links by the length of
	// their target, directories not at all.
	Size  int64
	Bytes int64  // length of the image file
	UUID  string // LUKS2 UUID
}

// Import makes a sealed image from an uncompressed layer tar, which it reads to its end.
// When it returns the image is durable, or nothing is left. The image file is as long as
// its content needs.
func (im *Image) Import(ctx context.Context, diffTar io.Reader, m Making) (ImportResult, error) {
	var result ImportResult
	if err := im.mayMake(); err != nil {
		return ImportResult{}, err
	}
	plan, err := im.plan(m)
	if err != nil {
		return ImportResult{}, err
	}
	size := int64(ext4.MaxTarSize)
	if plan.hashed {
		size = importSize
	}
	result.UUID, err = im.make(ctx, size, m, func(n unfinished) error {
		var used int64
		made := content{fs: plan.fs}
		held, err := im.fillOpen(ctx, n, func(node *os.File) error {
			done, tree, err := fill(ctx, node, diffTar, plan, layertar.Options{
				Dir: DirDiff, Label: im.fsLabel(), UIDMaps: m.IDMap.UIDMaps, GIDMaps: m.IDMap.GIDMaps, Heap: m.Heap, Literal: m.Literal,
			})
			result.Size, used, made.tree = done.ContentSize, done.Size, tree
			return err
		})
		if err != nil {
			return err
		}
		if err := closeDevice(context.WithoutCancel(ctx), held.file, held.uuid); err != nil {
			return err
		}
		if made.tree != nil {
			used = made.tree.End()
		}
		if err := im.keepContent(n, made); err != nil {
			return err
		}
		return n.file.Truncate(n.header.Segment().Offset + used)
	})
	if err != nil {
		return ImportResult{}, err
	}
	info, err := os.Stat(im.Path)
	if err != nil {
		return ImportResult{}, err
	}
	result.Bytes = info.Size()
	return result, nil
}

// fill writes the file system past the page cache: its blocks are encrypted by the
// goroutines that write them, all processors at once, and are not kept twice. With a hash tree
// behind it if planned.
func fill(ctx context.Context, node *os.File, diffTar io.Reader, p plan, o layertar.Options) (layertar.Result, *verity.Tree, error) {
	direct, err := os.OpenFile(node.Name(), os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		direct = node
	} else {
		defer func() { _ = direct.Close() }()
	}
	fromTar := ext4.FromTar
	if p.fs == EROFS {
		fromTar = erofs.FromTar
	}
	if !p.hashed {
		done, err := fromTar(ctx, diffTar, direct, o)
		return done, nil, err
	}
	w, err := verity.NewWriter(direct, verity.Options{Limit: ext4.MaxTarSize, Scratch: treeScratch})
	if err != nil {
		return layertar.Result{}, nil, err
	}
	done, err := fromTar(ctx, diffTar, w, o)
	if err != nil {
		return done, nil, err
	}
	tree, err := w.Finish(ctx, done.Size)
	return done, &tree, err
}

// keepContent writes into the header how the image is read.
func (im *Image) keepContent(n unfinished, c content) error {
	token, err := c.token()
	if err != nil || token == nil {
		return err
	}
	return n.header.SetSealedToken(n.file, im.Owner, n.passphrase, token)
}
