package crypt

import (
	"encoding/json"
	"errors"
	"fmt"

	"layervault/crypt/ext4"
	"layervault/crypt/luks2"
	"layervault/crypt/verity"
	"layervault/internal/durable"
)

// contentToken is the type of the LUKS2 token that says how a sealed image is read. The header's
// MAC covers the token as everything else, so neither can the hash tree be changed or taken away
// without the image's key, nor the file system.
//
//	{"type":"layervault-content","keyslots":[],"version":1,"filesystem":"erofs","tree":"<base64>"}
//
// tree is the encoding of verity.Tree, absent where there is none. An image without this token has
// an ext4 and no tree.
const contentToken = "layervault-content"

type contentJSON struct {
	Type       string   `json:"type"`
	KeySlots   []string `json:"keyslots"`
	Version    int      `json:"version"`
	FileSystem string   `json:"filesystem"`
	Tree       []byte   `json:"tree,omitempty"`
}

// FileSystem is the file system of an image.
type FileSystem string

// The file systems: writable images have ext4, sealed ones either.
const (
	Ext4  FileSystem = "ext4"
	EROFS FileSystem = "erofs"
)

// contentFormat bounds a token: the largest that this program writes has 250 bytes.
var contentFormat = durable.Format{Oldest: 1, Newest: 1, MaxSize: 1024}

// content is how an image is read.
type content struct {
	fs   FileSystem
	tree *verity.Tree // nil for none
}

// token encodes c; nil if an image without a token is read like that.
func (c content) token() (json.RawMessage, error) {
	if c == (content{fs: Ext4}) {
		return nil, nil
	}
	out := contentJSON{Type: contentToken, KeySlots: []string{}, Version: 1, FileSystem: string(c.fs)}
	if c.tree != nil {
		var err error
		if out.Tree, err = c.tree.MarshalBinary(); err != nil {
			return nil, err
		}
	}
	return json.Marshal(out)
}

// contentOf is how an image with an authentic header is read.
func contentOf(h *luks2.Header) (content, error) {
	c := content{fs: Ext4}
	if h.Format() == luks2.Format1 {
		return c, nil // whose tokens nobody vouches for
	}
	token, err := h.Token(contentToken)
	if errors.Is(err, luks2.ErrNoSlot) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	var in contentJSON
	if err := contentFormat.Decode("token "+contentToken, token, &in); err != nil {
		return c, err
	}
	if c.fs = FileSystem(in.FileSystem); c.fs != Ext4 && c.fs != EROFS {
		return c, &luks2.UnsupportedError{What: fmt.Sprintf("file system %q (made by a newer layervault)", in.FileSystem)}
	}
	if len(in.Tree) > 0 {
		c.tree = new(verity.Tree)
		err = c.tree.UnmarshalBinary(in.Tree)
	}
	return c, err
}

// Where a verity.Writer sets hashes aside: behind what the writer of the file system uses, and
// behind the largest tree.
var (
	treeScratch = ext4.MaxTarSize + verity.Size(ext4.MaxTarSize)
	importSize  = treeScratch + verity.ScratchSize(ext4.MaxTarSize)
)
