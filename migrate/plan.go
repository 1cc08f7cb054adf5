package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"layervault/migrate/docker"
)

// Migration is what is to go where. One of From and To may be nil: then the images go to the
// folder, or come from there.
type Migration struct {
	From, To Engine
	// Dir is the folder of the migration; a plan for two engines does without.
	Dir  string
	Host Host

	Pull     bool // pull by digest what came from a registry
	Dangling bool // images without any name too
	Clear    bool // accept an engine and a folder that keep everything in the clear
	AnySpace bool // accept too little free space
}

// Action is what becomes of an image.
type Action string

// The actions.
const (
	Move     Action = "move"     // saved by the one engine, loaded by the other
	Pull     Action = "pull"     // pulled by its digest, or moved if that fails
	Save     Action = "save"     // saved to the folder
	Load     Action = "load"     // loaded from there
	Done     Action = "done"     // in an earlier run
	Leave    Action = "leave"    // without a name
	Conflict Action = "conflict" // a tag has another image on the new engine
)

// Row is an image in a plan.
type Row struct {
	ID      string   `json:"id"`
	Tags    []string `json:"tags,omitempty"`
	Digests []string `json:"digests,omitempty"`
	Size    int64    `json:"size_bytes"`
	Action  Action   `json:"action"`
	Reason  string   `json:"reason,omitempty"`
}

// Name is what people know the image by.
func (r *Row) Name() string { return name(r.ID, r.Tags, r.Digests) }

// works says whether something is to be done.
func (r *Row) works() bool { return slices.Contains([]Action{Move, Pull, Save, Load}, r.Action) }

// Plan is what a migration would do.
type Plan struct {
	From       *docker.Info   `json:"from,omitempty"`
	To         *docker.Info   `json:"to,omitempty"`
	Dir        string         `json:"dir,omitempty"`
	Images     []Row          `json:"images"`
	Containers []ContainerRow `json:"containers"`
	Volumes    []VolumeRow    `json:"volumes"`
	Networks   []string       `json:"networks"`
	Space      []Need         `json:"space"`

	networks map[string]json.RawMessage
	details  []docker.Container
	volumes  []docker.Volume
}

// Plan says what Run would do, and changes nothing. With an error the plan may still be there, to
// be shown: ErrSpace, ErrOtherImage.
func (m *Migration) Plan(ctx context.Context) (*Plan, error) {
	state := &State{Version: stateFormat.Newest}
	if m.Dir != "" {
		var err error
		if state, err = readState(m.Dir); err != nil {
			return nil, err
		}
	}
	return m.plan(ctx, state)
}

func (m *Migration) plan(ctx context.Context, state *State) (*Plan, error) {
	p := &Plan{Dir: m.Dir, Images: []Row{}, Containers: []ContainerRow{}, Volumes: []VolumeRow{}, Networks: []string{}}
	if err := m.engines(ctx, p); err != nil {
		return nil, err
	}
	if err := m.rows(ctx, p, state); err != nil {
		return nil, err
	}
	if m.From != nil {
		if err := m.others(ctx, p); err != nil {
			return nil, err
		}
	}
	if err := m.needs(ctx, p); err != nil {
		return nil, err
	}
	errs := []error{p.enough()}
	for _, r := range p.Images {
		if r.Action == Conflict {
			errs = append(errs, fmt.Errorf("%w: %s", ErrOtherImage, r.Reason))
		}
	}
	return p, errors.Join(errs...)
}

// engines asks both engines what they are. Errors: ErrSameEngine, ErrClearEngine.
func (m *Migration) engines(ctx context.Context, p *Plan) error {
	for _, side := range []struct {
		name   string
		engine Engine
		info   **docker.Info
	}{{"old", m.From, &p.From}, {"new", m.To, &p.To}} {
		if side.engine == nil {
			continue
		}
		info, err := side.engine.Info(ctx)
		if err != nil {
			return fmt.Errorf("%s engine: %w", side.name, err)
		}
		*side.info = &info
	}
	if p.From != nil && p.To != nil && p.From.ID == p.To.ID && p.From.Root == p.To.Root {
		return fmt.Errorf("%w: %s and %s", ErrSameEngine, p.From.Address, p.To.Address)
	}
	if p.To != nil && !m.Clear && (p.To.Driver != driverName || !p.To.Snapshotter) {
		return fmt.Errorf("docker %s at %s, with the storage driver %s: %w", p.To.Version, p.To.Address, p.To.Driver, ErrClearEngine)
	}
	return nil
}

// driverName is layervault's own, as a storage driver, a snapshotter and a driver of volumes.
const driverName = "layervault"

// rows decides for each image.
func (m *Migration) rows(ctx context.Context, p *Plan, state *State) error {
	if m.From == nil {
		for i := range state.Images {
			e := &state.Images[i]
			r := Row{ID: e.ID, Tags: e.Tags, Digests: e.Digests, Size: e.Size}
			if err := m.decide(ctx, &r, e, e.Content); err != nil {
				return err
			}
			p.Images = append(p.Images, r)
		}
		return nil
	}
	images, err := m.From.Images(ctx)
	if err != nil {
		return fmt.Errorf("old engine: %w", err)
	}
	for _, im := range images {
		im, err := m.From.Inspect(ctx, im.ID)
		if errors.Is(err, docker.ErrNotFound) {
			continue // it was removed meanwhile
		}
		if err != nil {
			return fmt.Errorf("old engine: %w", err)
		}
		r := Row{ID: im.ID, Tags: im.Tags, Digests: im.Digests, Size: im.Size}
		if err := m.decide(ctx, &r, state.find(im.ID), im.Content); err != nil {
			return err
		}
		p.Images = append(p.Images, r)
	}
	return nil
}

// decide says what becomes of one image. e is what the state has of it, or nil.
func (m *Migration) decide(ctx context.Context, r *Row, e *Entry, content docker.Content) error {
	if m.To == nil {
		r.Action = Save
		if e != nil && (e.Stage == Verified || slices.Equal(e.Tags, r.Tags) && m.hasTar(e)) {
			r.Action = Done
		}
	} else if err := m.decideWith(ctx, r, e, content); err != nil {
		return err
	}
	if r.works() && len(r.Tags)+len(r.Digests) == 0 && !m.Dangling {
		r.Action, r.Reason = Leave, "has no name"
	}
	return nil
}

// decideWith is decide with what the new engine has already.
func (m *Migration) decideWith(ctx context.Context, r *Row, e *Entry, content docker.Content) error {
	present, other, err := m.present(ctx, r.Tags, content)
	if err != nil {
		return err
	}
	switch {
	case other != "":
		r.Action, r.Reason = Conflict, other
		return nil
	case e != nil && e.Stage == Verified && present == len(r.Tags):
		if len(r.Tags) > 0 {
			r.Action = Done
			return nil
		}
		im, err := m.To.Inspect(ctx, e.NewID)
		if err == nil && compare(e.ID, content, im.Content) == nil {
			r.Action = Done
			return nil
		}
		if err != nil && !errors.Is(err, docker.ErrNotFound) {
			return fmt.Errorf("new engine: %w", err)
		}
	}
	switch {
	case m.Pull && len(r.Digests) > 0:
		r.Action = Pull
	case m.From != nil:
		r.Action = Move
	case m.hasTar(e):
		r.Action = Load
	default:
		r.Action, r.Reason = Leave, "no tar in the folder, and not on the new engine any more"
	}
	return nil
}

// present counts the tags by which the new engine has the image; other names one that has another
// image there.
func (m *Migration) present(ctx context.Context, tags []string, content docker.Content) (n int, other string, err error) {
	for _, tag := range tags {
		im, err := m.To.Inspect(ctx, tag)
		switch {
		case errors.Is(err, docker.ErrNotFound):
			continue
		case err != nil:
			return 0, "", fmt.Errorf("new engine: %w", err)
		}
		if diff := compare(tag, content, im.Content); diff != nil {
			return 0, diff.Error(), nil
		}
		n++
	}
	return n, "", nil
}

// hasTar says whether the folder has the tar of an image, in its length. Its sum is checked when it
// is read.
func (m *Migration) hasTar(e *Entry) bool {
	if e == nil || e.TarSum == "" {
		return false
	}
	info, err := os.Lstat(filepath.Join(m.Dir, tarFile(e.ID)))
	return err == nil && info.Mode().IsRegular() && info.Size() == e.TarSize
}

// checkFolder wants the folder to be there, and to be encrypted. Error: ErrClearFolder.
func (m *Migration) checkFolder() error {
	info, err := os.Stat(m.Dir)
	if err == nil && !info.IsDir() {
		err = &fs.PathError{Op: "open", Path: m.Dir, Err: errors.New("not a folder")}
	}
	if err != nil {
		return fmt.Errorf("folder of the migration: %w", err)
	}
	if m.Clear {
		return nil
	}
	on, err := m.Host.OnVault(m.Dir)
	if err != nil {
		return fmt.Errorf("folder of the migration: %w", err)
	}
	if !on {
		return fmt.Errorf("%s: %w", m.Dir, ErrClearFolder)
	}
	return nil
}
