package layer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"layervault/crypt"
	"layervault/crypt/luks2"
)

// Reader reads a store that another process may own, for status and tools: it takes no
// lock, writes nothing and needs no key. Its results may be outdated, and are not
// authenticated: see Authenticate.
type Reader struct{ store *Store }

// OpenReader reads the store at root. A store that was never used is empty.
func OpenReader(root string) (*Reader, error) {
	dir, err := os.OpenRoot(root)
	if errors.Is(err, os.ErrNotExist) {
		return &Reader{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the layer store: %w", err)
	}
	return &Reader{&Store{
		cfg: Config{Root: root}, root: dir,
		records: make(map[string]Record), broken: make(map[string]struct{}),
	}}, nil
}

// Close lets go of the directory.
func (r *Reader) Close() error {
	if r.store == nil {
		return nil
	}
	return r.store.root.Close()
}

// List is Store.List.
func (r *Reader) List(ctx context.Context) ([]Record, error) {
	if r.store == nil {
		return nil, nil
	}
	return r.store.List(ctx)
}

// Get is Store.Get.
func (r *Reader) Get(id string) (Record, error) {
	if r.store == nil {
		return Record{}, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	return r.store.Get(id)
}

// Usage is Store.Usage.
func (r *Reader) Usage(id string) (Usage, error) {
	if r.store == nil {
		return Usage{}, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	return r.store.Usage(id)
}

// Header reads the LUKS2 header of a layer's image; os.ErrNotExist in the error of
// a fresh layer, which has none.
func (r *Reader) Header(id string) (*luks2.Header, error) {
	if _, err := r.Get(id); err != nil {
		return nil, err
	}
	f, err := r.store.root.Open(filepath.Join(id, ImageName))
	if err != nil {
		return nil, fmt.Errorf("image of layer %s: %w", id, err)
	}
	h, err := luks2.Read(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("image of layer %s: %w", id, err)
	}
	return h, nil
}

// ImagePath is the path of a layer's image.
func (r *Reader) ImagePath(id string) string { return filepath.Join(r.store.cfg.Root, id, ImageName) }

// Passphrase is what opens a layer's image, in the layer store as with cryptsetup
// --key-file. The caller wipes it.
func (r *Reader) Passphrase(id string, keys interface {
	Passphrase(format int, kind, id, imageUUID string) ([]byte, error)
}) ([]byte, error) {
	h, err := r.Header(id)
	if err != nil {
		return nil, err
	}
	return keys.Passphrase(h.Format(), crypt.KindLayer, id, h.UUID())
}
