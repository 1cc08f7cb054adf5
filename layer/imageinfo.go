package layer

import (
	"errors"
	"fmt"

	"layervault/crypt/luks2"
)

// ImageInfo is what a LUKS2 header says without a key.
type ImageInfo struct {
	UUID       string
	Cipher     string
	SectorSize int // bytes
}

// ImageInfo reads the header of a layer's image; of a fresh layer, which has
// none, it is zero.
func (s *Store) ImageInfo(r Record) (_ ImageInfo, err error) {
	if r.Kind == Fresh {
		return ImageInfo{}, nil
	}
	f, err := s.root.Open(r.ID + "/" + ImageName)
	if err != nil {
		return ImageInfo{}, fmt.Errorf("image of layer %s: %w", r.ID, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h, err := luks2.Read(f)
	if err != nil {
		return ImageInfo{}, fmt.Errorf("image of layer %s: %w", r.ID, err)
	}
	seg := h.Segment()
	return ImageInfo{UUID: h.UUID(), Cipher: seg.Cipher, SectorSize: seg.SectorSize}, nil
}
