package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"layervault/layer"
)

// mergedName is the directory of a read-only overlay beside the images that it shows.
const mergedName = "merged"

// tree is the content of layers, mounted out of sight to be read.
type tree struct {
	*Chain
	path string
}

// openContent opens what a layer itself holds, with overlay's whiteouts.
func (s *Stack) openContent(ctx context.Context, r layer.Record) (*tree, error) {
	if r.Kind == layer.Fresh {
		return s.openTree(ctx, nil)
	}
	return s.openTree(ctx, []layer.Record{r})
}

// openMerged opens what a container on the layer would see, read-only. A layer
// that is mounted elsewhere at the same time is shown as it is now.
func (s *Stack) openMerged(ctx context.Context, id string) (*tree, error) {
	if id == "" {
		return s.openTree(ctx, nil)
	}
	images, err := s.images(id)
	if err != nil {
		return nil, err
	}
	return s.openTree(ctx, images)
}

func (s *Stack) openTree(ctx context.Context, images []layer.Record) (_ *tree, err error) {
	chain, err := s.open(ctx, images)
	if err != nil {
		return nil, err
	}
	t := &tree{Chain: chain}
	if len(images) == 1 {
		t.path = chain.view.Content(0)
		return t, nil
	}
	t.path = filepath.Join(chain.view.Dir, mergedName)
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close(ctx))
		}
	}()
	if err := os.Mkdir(t.path, 0o700); err != nil {
		return nil, fmt.Errorf("open layers: %w", err)
	}
	if len(images) == 0 {
		return t, nil
	}
	if err := chain.overlay(false).mount(t.path); err != nil {
		return nil, err
	}
	return t, nil
}

// Empty says whether a layer itself holds nothing.
func (s *Stack) Empty(ctx context.Context, r layer.Record) (_ bool, err error) {
	content, err := s.openContent(ctx, r)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, content.Close(ctx)) }()
	entries, err := os.ReadDir(content.path)
	return err == nil && len(entries) == 0, err
}
