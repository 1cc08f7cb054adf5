package vault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"layervault/crypt/luks2"
	"layervault/layer"
	"layervault/persist"
	"layervault/volume"
)

// format is the present format of images and records.
const format = luks2.Format2

// Image is one LUKS2 image of a tier.
type Image struct {
	Kind, ID string // in the key derivation
	Path     string
	// Unused: left by an import that broke off. Nobody opens it.
	Unused bool
}

// Title names the image in messages.
func (im Image) Title() string { return im.Kind + " " + im.ID }

// Record is a record that belongs to neither a layer nor a volume.
type Record struct {
	Title string
	// Version reads its version, 0 where there is none, or none that can be read: whoever
	// wrote it writes it anew.
	Version func() int
	// Upgrade writes it in the present version. It is one rename.
	Upgrade func() error
}

// Contents says where everything of one tier is.
type Contents struct {
	Layout persist.Layout
	Tier   persist.Tier
	// Images lists the tier's images: of layers, volumes and disks.
	Images func() ([]Image, error)
	// Records are the tier's other records.
	Records []Record
}

// Problem is an image or a record that is not what its key wrote, or cannot be read.
type Problem struct {
	Title string
	Err   error
}

func (p Problem) Error() string { return fmt.Sprintf("%s: %v", p.Title, p.Err) }

// Formats is what a tier has of each format.
type Formats struct {
	Images  int // in all; those that nobody opens are not counted
	Records int // in all
	// OldImages and OldRecords are of format 1, by title.
	OldImages, OldRecords []string
	// Problems are not counted as of any format.
	Problems []Problem
}

// Old counts images and records of format 1.
func (f Formats) Old() int { return len(f.OldImages) + len(f.OldRecords) }

// Survey reads what a tier has of each format. It takes no lock and writes nothing. Without
// keys it is what the disk says; with keys every image is opened, and every record held
// against the key that should have written it.
func Survey(ctx context.Context, c Contents, keys layer.KeySource) (Formats, error) {
	s := survey{contents: c, keys: keys}
	for _, part := range []func(context.Context) error{s.images, s.layers, s.volumes, s.records} {
		if err := part(ctx); err != nil {
			return s.found, fmt.Errorf("look for old formats in %s: %w", c.Tier, err)
		}
	}
	return s.found, nil
}

type survey struct {
	contents Contents
	keys     layer.KeySource // nil for none
	found    Formats
}

func (s *survey) problem(title string, err error) {
	s.found.Problems = append(s.found.Problems, Problem{title, err})
}

func (s *survey) images(ctx context.Context) error {
	images, err := s.contents.Images()
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

// read reads an image's format. With keys the image must open, and its header be theirs.
func (im Image) read(ctx context.Context, keys layer.KeySource) (version int, err error) {
	f, err := os.Open(im.Path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h, err := luks2.Read(f)
	if err != nil || keys == nil {
		return formatOf(h), err
	}
	if err := h.CheckOwn(); err != nil {
		return 0, err
	}
	passphrase, err := keys.Passphrase(h.Format(), im.Kind, im.ID, h.UUID())
	if err != nil {
		return 0, err
	}
	defer clear(passphrase)
	key, _, err := h.UnlockOwn(ctx, f, passphrase)
	clear(key)
	if err == nil && h.Format() == format {
		err = h.Authentic(luks2.Owner{Kind: im.Kind, ID: im.ID}, passphrase)
	}
	return h.Format(), err
}

func formatOf(h *luks2.Header) int {
	if h == nil {
		return 0
	}
	return h.Format()
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
