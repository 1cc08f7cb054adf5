package migrate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"layervault/internal/durable"
	"layervault/migrate/docker"
)

// Removable is an image that both engines have, and tell the same of.
type Removable struct {
	ID    string   `json:"id"`
	Names []string `json:"names"` // on the old engine
	Tar   bool     `json:"tar"`   // in the folder

	name   string
	needed string // name of a container that needs it, "" for none
}

// Name is what people know the image by.
func (r *Removable) Name() string { return r.name }

// Removable lists what Clean would remove: images that an earlier run verified, and that both
// engines still tell the same of. Without an old engine it is the tars in the folder.
func (m *Migration) Removable(ctx context.Context) ([]Removable, error) {
	state, err := readState(m.Dir)
	if err != nil {
		return nil, err
	}
	if err := m.engines(ctx, &Plan{}); err != nil {
		return nil, err
	}
	needed, err := m.needed(ctx)
	if err != nil {
		return nil, err
	}
	list := []Removable{}
	for i := range state.Images {
		e := &state.Images[i]
		if e.Stage != Verified {
			continue
		}
		r := Removable{ID: e.ID, Names: []string{}, Tar: m.hasTar(e), name: e.Name(), needed: needed[e.ID]}
		tags := e.Tags
		if m.From != nil {
			im, err := m.From.Inspect(ctx, e.ID)
			switch {
			case errors.Is(err, docker.ErrNotFound):
			case err != nil:
				return nil, fmt.Errorf("old engine: %w", err)
			default:
				tags = im.Tags
				if r.Names = append(r.Names, im.Tags...); len(im.Tags) == 0 {
					r.Names = append(r.Names, im.ID)
				}
			}
		}
		if len(r.Names) == 0 && !r.Tar {
			continue
		}
		now := &Entry{ID: e.ID, Tags: tags, Digests: e.Digests, Content: e.Content}
		_, err := m.verify(ctx, now, []string{e.NewID})
		if errors.Is(err, ErrContent) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

// Clean removes one image from the old engine, name by name, and its tar from the folder. What a
// container needs stays with all its names: docker.ErrConflict.
func (m *Migration) Clean(ctx context.Context, r Removable) error {
	if len(r.Names) > 0 && r.needed != "" {
		return fmt.Errorf("old engine: image is %w: container %s", docker.ErrConflict, r.needed)
	}
	for _, name := range r.Names {
		if err := m.From.Remove(ctx, name); err != nil && !errors.Is(err, docker.ErrNotFound) {
			return fmt.Errorf("old engine: %w", err)
		}
	}
	if !r.Tar {
		return nil
	}
	file := filepath.Join(m.Dir, tarFile(r.ID))
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("tar of the image: %w", err)
	}
	return durable.SyncPath(filepath.Dir(file))
}

// needed has, by the image's ID, a container of the old engine that needs the image. An engine
// itself only refuses to remove the last name.
func (m *Migration) needed(ctx context.Context) (map[string]string, error) {
	by := map[string]string{}
	if m.From == nil {
		return by, nil
	}
	containers, err := m.From.Containers(ctx)
	if err != nil {
		return nil, fmt.Errorf("old engine: %w", err)
	}
	for i := range containers {
		by[containers[i].Image] = cmp.Or(containers[i].Name, containers[i].ID)
	}
	return by, nil
}
