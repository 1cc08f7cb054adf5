package crypt

import (
	"context"
	"os"
)

// Form is how the content of a sealed image is kept.
type Form struct {
	FileSystem FileSystem
	Hashed     bool // it has a hash tree
}

// oldest is the form of all sealed images before there was another.
var oldest = Form{FileSystem: Ext4}

// Form reads the form of a sealed image from its header, which its key authenticates.
func (im *Image) Form(ctx context.Context) (Form, error) {
	v, err := im.verified(ctx, os.O_RDONLY)
	if err != nil {
		return Form{}, err
	}
	defer v.close()
	return Form{FileSystem: v.content.fs, Hashed: v.content.tree != nil}, nil
}

// Outdated says whether a sealed image has the oldest form, and Import would choose another here.
// Where the kernel has no better one, nothing is outdated.
func (im *Image) Outdated(ctx context.Context, m Making) (bool, error) {
	have, err := im.Form(ctx)
	if err != nil || have != oldest {
		return false, err
	}
	p, err := im.plan(m)
	return Form{FileSystem: p.fs, Hashed: p.hashed} != oldest, err
}
