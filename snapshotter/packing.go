package snapshotter

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// packing is how the tar of a blob is compressed.
type packing int

// The packings, by the type of the blob. Like containerd, what is compressed by its type is
// looked at: registries have blobs of one kind under the type of the other.
const (
	plainTar packing = iota
	compressedTar
)

// nonDistributable begins the types of layers that are not pushed on. They are deprecated, and in
// registries.
const nonDistributable = "application/vnd.oci.image.layer.nondistributable.v1.tar"

// packings are the types of layers that are a tar and nothing else: not encrypted, and no other
// file system.
var packings = map[string]packing{
	ocispec.MediaTypeImageLayer:                   plainTar,
	ocispec.MediaTypeImageLayerGzip:               compressedTar,
	ocispec.MediaTypeImageLayerZstd:               compressedTar,
	nonDistributable:                              plainTar,
	nonDistributable + "+gzip":                    compressedTar,
	nonDistributable + "+zstd":                    compressedTar,
	images.MediaTypeDockerSchema2Layer:            compressedTar, // docker has used it for both
	images.MediaTypeDockerSchema2LayerGzip:        compressedTar,
	images.MediaTypeDockerSchema2LayerZstd:        compressedTar,
	images.MediaTypeDockerSchema2LayerForeign:     compressedTar,
	images.MediaTypeDockerSchema2LayerForeignGzip: compressedTar,
}

// packingOf is ErrNotOurs for a type that is not a plain layer.
func packingOf(mediaType string) (packing, error) {
	p, ok := packings[mediaType]
	if !ok {
		return 0, fmt.Errorf("%w: blob of type %q", ErrNotOurs, mediaType)
	}
	return p, nil
}

const (
	// readAhead is how much of a blob is asked for at a time: each is a request to containerd.
	readAhead = 1 << 20
	// maxWindow bounds the memory that a zstd blob can ask for, in bytes: that of zstd --long.
	maxWindow = 128 << 20
	// magicLength is more than any compression's mark at the start.
	magicLength = 10
)

// unpack reads the tar of a blob. No other program helps: it would see the content.
func (p packing) unpack(blob io.Reader) (io.ReadCloser, error) {
	in := bufio.NewReaderSize(blob, readAhead)
	if p == plainTar {
		return io.NopCloser(in), nil
	}
	// A blob may be shorter than any mark: then it is not compressed.
	start, err := in.Peek(magicLength)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch compression.DetectCompression(start) {
	case compression.Gzip:
		return gzip.NewReader(in)
	case compression.Zstd:
		out, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return out.IOReadCloser(), nil
	default:
		for name, mark := range unknownPackings {
			if bytes.HasPrefix(start, []byte(mark)) {
				return nil, fmt.Errorf("compression %s has no type of layer", name)
			}
		}
		return io.NopCloser(in), nil
	}
}

// unknownPackings are the marks of compressions that no type of layer names. Without them the
// error would be one of the tar.
var unknownPackings = map[string]string{"xz": "\xfd7zXZ\x00", "bzip2": "BZh", "lz4": "\x04\x22\x4d\x18"}

// compressions are what a diff can be compressed by, by its type.
var compressions = map[string]compression.Compression{
	ocispec.MediaTypeImageLayer:     compression.Uncompressed,
	ocispec.MediaTypeImageLayerGzip: compression.Gzip,
	ocispec.MediaTypeImageLayerZstd: compression.Zstd,
}
