package vault

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"layervault/crypt"
	"layervault/layer"
	"layervault/volume"
)

// An upgrade brings one tier from format 1, whose headers and records say what they like, to
// format 2, where the tier's key vouches for each. In this order:
//
//  1. One write makes the ring one of version 2, with floor 1.
//  2. Layer after layer: its image, then its record. Volume after volume: its image, its
//     record, its entry in the tier's list; then the revision. Disk after disk: its image.
//     Then the other records. Each may be in use, and is locked by its store meanwhile.
//  3. Everything is read again: every image opens, with a header that its key wrote, and
//     every record is of version 2 and its key's.
//  4. One write of the ring raises the floor to 2. From here on format 1 is refused.
//
// What a crash leaves, by step:
//
//	before 1       a vault of format 1
//	after 1        a vault of both formats. An older layervault refuses its ring
//	               (keys.ErrNewerRing), instead of opening half of the images
//	within 2       the same. An image opens at all times, see luks2.Upgrade; a record is
//	               the old one or the new one
//	after 2, 3     the same, and nothing of format 1 is left
//	within 4       the same, or a vault of format 2: one copy of the ring may be of the
//	               write before, and is mended when it is next read
//
// Run again, it goes through all of it: what is done already is only read. While something
// resists, the floor stays: whatever was planted on the disk to keep it there is named, and
// opens as little as before. So is an image that no key of ours opens, for it may be one
// whose disk fails just now. It goes on when that was removed, mended or adopted; or with
// Force, which gives up nothing that opens.

// ErrUnfinished: something of the tier is not of format 2, or does not open, and the floor
// stays where it is. The error is an *UnfinishedError.
var ErrUnfinished = errors.New("the upgrade to format 2 is not complete")

// UnfinishedError is ErrUnfinished with the reasons.
type UnfinishedError struct {
	Tier     string
	Problems []error
}

// most is how many things one line names.
const most = 5

func (e *UnfinishedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v in %s: %d images or records cannot be upgraded", ErrUnfinished, e.Tier, len(e.Problems))
	for i, p := range e.Problems {
		if i == most {
			fmt.Fprintf(&b, "; and %d more", len(e.Problems)-i)
			break
		}
		fmt.Fprintf(&b, "; %v", p)
	}
	return b.String()
}

// Is makes the error match ErrUnfinished. It matches none of the reasons: the upgrade as a
// whole is neither locked nor damaged.
func (e *UnfinishedError) Is(target error) bool { return target == ErrUnfinished }

// Keys are an open tier whose floor can be raised; *unlock.Source.
type Keys interface {
	crypt.KeySource
	// SetFloor raises the floor, and makes a ring of version 1 one of version 2.
	SetFloor(ctx context.Context, floor int) error
}

// Upgrade says how a tier is to be upgraded. Whoever runs it holds off a rotation of the
// tier's key.
type Upgrade struct {
	Contents
	Keys    Keys
	Layers  *layer.Store // of the tier, open; nil where it has none
	Volumes *volume.Store
	// Force raises the floor although something resists.
	Force bool
	// Progress, when set, is called after each thing of a part: "layers", "volumes", "disks".
	Progress func(part string, done, total int, name string)
	// Checkpoint, when set, is called before each step. Its error ends the upgrade there.
	Checkpoint func(step string) error
	Log        *slog.Logger // nil for slog.Default()
}

// Upgraded is the outcome.
type Upgraded struct {
	Before Formats // as the disk said it
	Floor  int
	Raised bool // by this run
	// Refused, by title, resisted: the tier does not take them any more. With Force, or
	// where the floor was raised earlier.
	Refused []string
}

// Run upgrades the tier. A tier that was upgraded is left alone. Errors: *UnfinishedError;
// keys.ErrUnfinished while a rotation of the tier's key waits to be finished.
func (u Upgrade) Run(ctx context.Context) (out Upgraded, err error) {
	if out.Before, err = Survey(ctx, u.Contents, nil); err != nil {
		return out, err
	}
	if out.Floor = u.Keys.Floor(); out.Floor >= format {
		out.Refused = append(append(out.Refused, out.Before.OldImages...), out.Before.OldRecords...)
		return out, nil
	}
	resist, err := u.run(ctx)
	switch {
	case ctx.Err() != nil:
		return out, fmt.Errorf("the upgrade of %s waits to be finished: %w", u.Tier, context.Cause(ctx))
	case err != nil:
		return out, fmt.Errorf("upgrade %s: %w", u.Tier, err)
	case len(resist) > 0 && !u.Force:
		return out, &UnfinishedError{Tier: string(u.Tier), Problems: resist}
	}
	for _, r := range resist {
		out.Refused = append(out.Refused, r.Error())
	}
	if err := u.step("floor"); err != nil {
		return out, fmt.Errorf("upgrade %s: %w", u.Tier, err)
	}
	if err := u.Keys.SetFloor(ctx, format); err != nil {
		return out, fmt.Errorf("upgrade %s: %w", u.Tier, err)
	}
	out.Floor, out.Raised = u.Keys.Floor(), true
	u.log().InfoContext(ctx, "tier upgraded: format 1 is refused from now on",
		"tier", u.Tier, "images", len(out.Before.OldImages), "records", len(out.Before.OldRecords), "refused", len(out.Refused))
	return out, nil
}

// run does all but raise the floor, and says what keeps that from being raised: what resists
// at the end, when everything is read again; or, where that finds nothing, what resisted on
// the way.
func (u Upgrade) run(ctx context.Context) (resist []error, err error) {
	if err := u.step("ring"); err != nil {
		return nil, err
	}
	if err := u.Keys.SetFloor(ctx, format-1); err != nil {
		return nil, err
	}
	for _, part := range []struct {
		name string
		do   func(context.Context) error
	}{{"layers", u.layers}, {"volumes", u.volumes}, {"disks", u.disks}, {"records", u.records}} {
		if err := u.step(part.name); err != nil {
			return nil, err
		}
		resist = append(resist, each(part.do(ctx))...)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	if err := u.step("verify"); err != nil {
		return nil, err
	}
	left, err := u.verify(ctx)
	if err == nil && len(left) > 0 {
		resist = left
	}
	return resist, err
}

func (u Upgrade) log() *slog.Logger {
	if u.Log == nil {
		return slog.Default()
	}
	return u.Log
}

func (u Upgrade) step(name string) error {
	if u.Checkpoint == nil {
		return nil
	}
	if err := u.Checkpoint(name); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// progress is the progress of a part; nil without a watcher.
func (u Upgrade) progress(part string) func(done, total int, name string) {
	if u.Progress == nil {
		return nil
	}
	return func(done, total int, name string) { u.Progress(part, done, total, name) }
}

func (u Upgrade) layers(ctx context.Context) error {
	if u.Layers == nil {
		return nil
	}
	_, err := u.Layers.Upgrade(ctx, u.progress("layers"))
	return err
}

func (u Upgrade) volumes(ctx context.Context) error {
	_, err := u.Volumes.Upgrade(ctx, u.Tier, u.progress("volumes"))
	return err
}

// disks upgrades the images of disks of type luks. Nothing removes those but a person.
func (u Upgrade) disks(ctx context.Context) error {
	images, err := u.KnownImages()
	if err != nil {
		return err
	}
	var disks []*Image
	for _, im := range images {
		if im.Kind == crypt.KindDisk {
			disks = append(disks, im)
		}
	}
	var errs []error
	for i, im := range disks {
		if ctx.Err() != nil {
			break
		}
		d := &crypt.Image{
			Path: im.Path, Owner: im.owner(), Label: im.ID,
			Key: func(_ context.Context, format int, imageUUID string) ([]byte, error) {
				return u.Keys.Passphrase(format, im.Kind, im.ID, imageUUID)
			},
			Log: u.Log,
		}
		if err := d.Upgrade(ctx); err != nil {
			errs = append(errs, fmt.Errorf("upgrade %s: %w", im.Title(), err))
		}
		if u.Progress != nil {
			u.Progress("disks", i+1, len(disks), im.ID)
		}
	}
	return errors.Join(errs...)
}

func (u Upgrade) records(context.Context) error {
	var errs []error
	for _, r := range u.Records {
		version := r.Version()
		if version == 0 || version >= format {
			continue
		}
		if err := r.Upgrade(u.Keys); err != nil {
			errs = append(errs, fmt.Errorf("upgrade the %s: %w", r.Title, err))
		}
	}
	return errors.Join(errs...)
}

// errStill: it opens, and could not be brought to the present format.
var errStill = errors.New("still of format 1")

// verify reads everything again, with the key, and says what is not as it should be.
func (u Upgrade) verify(ctx context.Context) (left []error, err error) {
	now, err := Survey(ctx, u.Contents, u.Keys)
	for _, p := range now.Problems {
		left = append(left, p)
	}
	for _, title := range append(now.OldImages, now.OldRecords...) {
		left = append(left, Problem{title, errStill})
	}
	return left, err
}
