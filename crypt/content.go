package crypt

import (
	"errors"
	"fmt"

	"layervault/crypt/ext4"
	"layervault/crypt/luks2"
	"layervault/crypt/verity"
	"layervault/internal/durable"
)

// contentToken is the type of the LUKS2 token of a sealed image that has a hash tree. The
// header's MAC covers the token as everything else, so neither tree nor token can be changed or
// taken away without the image's key.
//
//	{"type":"layervault-content","keyslots":[],"version":1,"filesystem":"ext4","tree":"<base64>"}
//
// tree is the encoding of verity.Tree. An image without this token has no tree.
const contentToken = "layervault-content"

// content is that token.
type content struct {
	Type       string   `json:"type"`
	KeySlots   []string `json:"keyslots"`
	Version    int      `json:"version"`
	FileSystem string   `json:"filesystem"`
	Tree       []byte   `json:"tree"`
}

const fsExt4 = "ext4"

// contentFormat bounds a token: the largest that this program writes has 250 bytes.
var contentFormat = durable.Format{Oldest: 1, Newest: 1, MaxSize: 1024}

func newContent(t verity.Tree) (content, error) {
	tree, err := t.MarshalBinary()
	return content{Type: contentToken, KeySlots: []string{}, Version: 1, FileSystem: fsExt4, Tree: tree}, err
}

// treeOf is the hash tree of an image with an authentic header, nil for one without.
func treeOf(h *luks2.Header) (*verity.Tree, error) {
	if h.Format() == luks2.Format1 {
		return nil, nil // whose tokens nobody vouches for
	}
	token, err := h.Token(contentToken)
	if errors.Is(err, luks2.ErrNoSlot) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var c content
	if err := contentFormat.Decode("token "+contentToken, token, &c); err != nil {
		return nil, err
	}
	if c.FileSystem != fsExt4 {
		return nil, &luks2.UnsupportedError{What: fmt.Sprintf("file system %q (made by a newer layervault)", c.FileSystem)}
	}
	tree := new(verity.Tree)
	return tree, tree.UnmarshalBinary(c.Tree)
}

// Where a verity.Writer sets hashes aside: behind what the writer of the file system uses, and
// behind the largest tree.
var (
	treeScratch = ext4.MaxTarSize + verity.Size(ext4.MaxTarSize)
	importSize  = treeScratch + verity.ScratchSize(ext4.MaxTarSize)
)
