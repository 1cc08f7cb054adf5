package driver

import (
	"context"
	"fmt"
	"io"
	"os"
)

// DiffGetter gives access to single files of a layer's own content, without those
// of its parents. Close it to unmount.
func (d *Driver) DiffGetter(ctx context.Context, id string) (FileGetCloser, error) {
	s, r, err := d.lookUp(ctx, id)
	if err != nil {
		return nil, err
	}
	t, err := s.openContent(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("files of layer %s: %w", id, err)
	}
	return &fileGetter{t: t}, nil
}

type fileGetter struct{ t *tree }

// Get opens a file. Links are followed within the layer only.
func (g *fileGetter) Get(filename string) (io.ReadCloser, error) {
	return os.OpenInRoot(g.t.path, filename)
}

func (g *fileGetter) Close() error { return g.t.close(context.Background()) }
