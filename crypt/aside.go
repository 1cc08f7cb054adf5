package crypt

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/google/uuid"

	"layervault/crypt/dm"
)

// An image is verified through a loop device and a dm-crypt device of its own: whoever mounts or
// closes the image meanwhile has nothing to do with them. Both can only be read from.

// asidePrefix begins the device-mapper names of such devices, and asideUUID their UUIDs.
const (
	asidePrefix = devicePrefix + "verify-"
	asideUUID   = "LAYERVAULT-VERIFY-"
)

// attachAside opens an image for Verify. A crash leaves what a crash in attach does.
func (im *Image) attachAside(ctx context.Context, c chain, key []byte) (node *os.File, name string, err error) {
	// Two may verify one image at the same time.
	id := c.uuid + "-" + uuid.NewString()[:8]
	name = asidePrefix + id
	err = retry(ctx, func() error {
		if err := im.refuseWriters(ctx, c); err != nil {
			return err
		}
		node, err = build(ctx, device{
			file: c.file, name: name, uuid: asideUUID + id, readOnly: true, blockSize: c.segment.SectorSize,
			load: func(control *dm.Control, name string, over uint64) error {
				return control.LoadCrypt(name, cryptTable(control, c, over, len(key)), "layervault:"+id, key)
			},
		})
		return err
	})
	return node, name, err
}

// refuseWriters is a *HolderError where another program may write to the image: what is read while
// somebody writes says nothing. layervault's own device of a sealed image can only be read from.
func (im *Image) refuseWriters(ctx context.Context, c chain) error {
	unlock, err := im.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	node, err := live(c.file, deviceUUID(c.uuid), true)
	switch {
	case node != nil:
		return node.Close()
	case err != nil && !errors.Is(err, ErrInUse): // of a copy, which is no matter here
		return err
	}
	return refuseHolders(c.file, deviceUUID(c.uuid), true)
}

// isAside says whether a device-mapper device is one to verify an image through.
func isAside(dmUUID string) bool { return strings.HasPrefix(dmUUID, asideUUID) }
