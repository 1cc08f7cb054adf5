package vault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"layervault/crypt"
	"layervault/crypt/luks2"
	"layervault/layer"
	"layervault/persist"
	"layervault/volume"
)

// format is the present format of images and records.
const format = luks2.Format2

// Problem is an image or a record that is not what its key wrote, or cannot be read.
type Problem struct {
	Title string
	Err   error
}

func (p Problem) Error() string { return fmt.Sprintf("%s: %v", p.Title, p.Err) }

// MarshalText makes a problem its text in JSON.
func (p Problem) MarshalText() ([]byte, error) { return []byte(p.Error()), nil }

// Formats is what a tier has of each format. The JSON names are those of vault upgrade --json.
type Formats struct {
	Images  int `json:"images"` // in all; unused ones are not counted
	Records int `json:"records"`
	// OldImages and OldRecords are of format 1, by title.
	OldImages  []string `json:"old_images"`
	OldRecords []string `json:"old_records"`
	// Problems are not counted as of any format.
	Problems []Problem `json:"problems"`
}

// Old counts images and records of format 1.
func (f Formats) Old() int { return len(f.OldImages) + len(f.OldRecords) }

// Survey reads what a tier has of each format. It takes no lock and writes nothing. Without
// keys it is what the disk says; with keys every image is opened, and every record held
// against the key that should have written it.
func Survey(ctx context.Context, c Contents, keys crypt.KeySource) (Formats, error) {
	s := survey{contents: c, keys: keys, found: none()}
	for _, part := range []func(context.Context) error{s.images, s.layers, s.volumes, s.records} {
		if err := part(ctx); err != nil {
			return s.found, fmt.Errorf("look for old formats in %s: %w", c.Tier, err)
		}
	}
	return s.found, nil
}

// none is Formats of a tier that has nothing, whose lists are empty in JSON and not null.
func none() Formats {
	return Formats{OldImages: []string{}, OldRecords: []string{}, Problems: []Problem{}}
}

type survey struct {
	contents Contents
	keys     crypt.KeySource // nil for none
	found    Formats
}

func (s *survey) problem(title string, err error) {
	s.found.Problems = append(s.found.Problems, Problem{title, err})
}

func (s *survey) images(ctx context.Context) error {
	images, err := s.contents.KnownImages()
	if err != nil {
		return err
	}
	for _, im := range images {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if im.Unused {
			continue
		}
		version, err := im.read(ctx, s.keys)
		if _, gone := os.Lstat(im.Path); errors.Is(gone, fs.ErrNotExist) {
			continue // removed since it was listed
		}
		s.found.Images++
		switch {
		case err != nil:
			s.problem(im.Title(), err)
		case version < format:
			s.found.OldImages = append(s.found.OldImages, im.Title())
		}
	}
	return nil
}

func (s *survey) record(title string, version int) {
	s.found.Records++
	if version < format {
		s.found.OldRecords = append(s.found.OldRecords, title)
	}
}

func (s *survey) layers(ctx context.Context) (err error) {
	r, err := layer.OpenReader(s.contents.Layout.Layers(s.contents.Tier))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	records, err := r.List(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for _, unreadable := range each(err) {
		s.problem("record of a layer", unreadable)
	}
	for _, rec := range records {
		title := "record of layer " + rec.ID
		if s.keys != nil {
			if err := r.Authenticate(rec, s.keys); err != nil {
				s.problem(title, err)
				continue
			}
		}
		s.record(title, rec.Version)
	}
	return nil
}

func (s *survey) volumes(ctx context.Context) error {
	tier := s.contents.Tier
	all, err := volume.List(ctx, s.contents.Layout)
	if err != nil {
		return err
	}
	for _, v := range all {
		if v.KeyTier() != tier || v.Missing() || v.Superseded {
			continue
		}
		title := "record of volume " + v.ID().String()
		switch {
		case v.Damage != nil:
			s.problem(title, v.Damage)
		case v.Unauthenticated():
			s.record(title, format-1)
		default:
			s.record(title, format)
		}
	}
	if s.keys != nil {
		keyed, err := volume.KeyedRecords(ctx, s.contents.Layout, tier)
		if err != nil {
			return err
		}
		for _, k := range keyed {
			if err := k.Check(s.keys); err != nil && !errors.Is(err, fs.ErrNotExist) {
				s.problem(k.Title, err)
			}
		}
	}
	if tier != persist.Vault {
		return nil
	}
	version, err := volume.RevisionVersion(s.contents.Layout)
	switch {
	case err != nil:
		s.problem("revision of the host", err)
	case version > 0:
		s.record("revision of the host", version)
	}
	return nil
}

func (s *survey) records(context.Context) error {
	for _, r := range s.contents.Records {
		if version := r.Version(); version > 0 {
			s.record(r.Title, version)
		}
	}
	return nil
}

// each takes apart what errors.Join put together.
func each(err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok { // not what is wrapped further in
		var all []error
		for _, e := range joined.Unwrap() {
			all = append(all, each(e)...)
		}
		return all
	}
	return []error{err}
}
