package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"layervault/layer"
)

// tree is a layer's content, mounted out of sight to be read.
type tree struct {
	path string
	view *layer.View
}

// openContent opens what a layer itself holds, with overlay's whiteouts.
func (s *session) openContent(ctx context.Context, r layer.Record) (*tree, error) {
	if r.Kind == layer.Fresh {
		return s.openTree(ctx, nil)
	}
	return s.openTree(ctx, []layer.Record{r})
}

// openMerged opens what a container on the layer would see, read-only. A layer
// that is mounted elsewhere at the same time is shown as it is now.
func (s *session) openMerged(ctx context.Context, id string) (*tree, error) {
	if id == "" {
		return s.openTree(ctx, nil)
	}
	images, err := s.imagesOf(id)
	if err != nil {
		return nil, err
	}
	return s.openTree(ctx, images)
}

func (s *session) openTree(ctx context.Context, images []layer.Record) (_ *tree, err error) {
	view, err := s.store.Open(ctx, images)
	if err != nil {
		return nil, err
	}
	t := &tree{view: view}
	if len(images) == 1 {
		t.path = view.Content(0)
		return t, nil
	}
	t.path = filepath.Join(view.Dir, mergedName)
	defer func() {
		if err != nil {
			err = errors.Join(err, t.close(ctx))
		}
	}()
	if err := os.Mkdir(t.path, 0o700); err != nil {
		return nil, fmt.Errorf("open layers: %w", err)
	}
	if len(images) == 0 {
		return t, nil
	}
	if err := (overlay{view: view, images: len(images)}).mount(t.path); err != nil {
		return nil, err
	}
	return t, nil
}

// close unmounts, all at once. It goes on when ctx has ended.
func (t *tree) close(ctx context.Context) error {
	return t.view.Close(context.WithoutCancel(ctx))
}
