package keys

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// A rotation replaces the tier key by a new random one. In this order:
//
//  1. Every image is tried with the old key, so that a rotation does not begin that
//     could not end.
//  2. One write turns the ring to the new key: all slots wrap it, and "previous" holds
//     the old key, wrapped by the new one. From here on any slot gives both.
//  3. Image after image exchanges its LUKS2 slot. Each can be repeated.
//  4. One write drops "previous". The old key opens nothing any more, and nothing
//     holds it: not the ring, not its copy.
//
// A crash leaves the ring before 2, without a rotation, or one with
// "previous", which Rotate takes up at 3. An older layervault refuses such a ring
// (ErrNewerRing) instead of opening half of the images.
//
// During a rotation no image may be made with the old key: the caller holds a lock
// against that, see vault.Contents.

// Image is an encrypted image that the tier key opens. The packages that store images
// implement it.
type Image interface {
	// Title names the image in messages.
	Title() string
	// Opens returns the reason why key does not open the image; nil if it does.
	Opens(ctx context.Context, key *TierKey) error
	// Exchange makes next open the image, then disables old. It must be durable on return,
	// repeatable after an interruption at any point, and leave an image that one of the
	// keys opens at all times.
	Exchange(ctx context.Context, old, next *TierKey) error
}

// Rotation says how a tier key is to be rotated.
type Rotation struct {
	// Images lists all images of the tier. The list must not change until Rotate returns.
	Images []Image
	// Carry has, by slot id, the provider that wraps the new key for the slot. A slot
	// that is in neither Carry nor Drop keeps the rotation from beginning. Not used by
	// a rotation that is taken up again.
	Carry map[string]Provider
	Drop  []string // ids of slots that the new key shall not have
	// Force starts although images do not open, and finishes although images could not be
	// exchanged: such images are given up for good.
	Force bool
	// Progress, when set, is called after each image.
	Progress func(done, total int, image string)
	// Checkpoint, when set, is called at each step at which a crash leaves another
	// state on disk. Its error ends the rotation there.
	Checkpoint func(step string) error
}

// Rotated is the outcome of a rotation.
type Rotated struct {
	Images  int           // exchanged, now or before
	Resumed bool          // an earlier rotation was finished, none begun
	Lost    []*ImageError // given up, with Force
}

// ImageError says why one image could not be rotated.
type ImageError struct {
	Image string
	Err   error
}

func (e *ImageError) Error() string { return fmt.Sprintf("%s: %v", e.Image, e.Err) }
func (e *ImageError) Unwrap() error { return e.Err }

// UnfinishedError is ErrUnfinished with the failed images.
type UnfinishedError struct {
	Begun  bool // false: nothing was changed
	Images []*ImageError
}

func (e *UnfinishedError) Error() string {
	var b strings.Builder
	if e.Begun {
		fmt.Fprintf(&b, "%v: %d images still use the old key, kept in the key ring", ErrUnfinished, len(e.Images))
	} else {
		fmt.Fprintf(&b, "%v, nothing was changed: %d images do not open with the present key", ErrUnfinished, len(e.Images))
	}
	for i, im := range e.Images {
		if i == 5 { // a line is for reading
			fmt.Fprintf(&b, "; and %d more", len(e.Images)-i)
			break
		}
		b.WriteString("; " + im.Error())
	}
	return b.String()
}

// Is makes the error match ErrUnfinished.
func (e *UnfinishedError) Is(target error) bool { return target == ErrUnfinished }

// Unwrap gives the images' errors.
func (e *UnfinishedError) Unwrap() []error {
	errs := make([]error, len(e.Images))
	for i, im := range e.Images {
		errs[i] = im
	}
	return errs
}

// Rotating reports whether a rotation is unfinished: some images may need the previous
// key, kept in the ring. Rotate finishes it.
func (r *Ring) Rotating() bool { return r.snapshot().Previous != nil }

// Proves returns nil for the tier key of this ring, and ErrWrongKey for another, such as
// one from before a rotation. A ring not written by a holder of the key is a *ForgedRing.
func (r *Ring) Proves(key *TierKey) error { return r.snapshot().prove(key) }

// Rotate replaces the tier key, or finishes a rotation that was cut short. key is the
// ring's; the caller still closes it, and it is the old one afterwards. Errors:
// *UnfinishedError, *SlotError for a slot that cannot be carried over, ErrLastSlot.
func (r *Ring) Rotate(ctx context.Context, key *TierKey, plan Rotation) (_ Rotated, err error) {
	own := &Ring{store: r.store, anchor: r.anchor, unasked: r.unasked, body: r.snapshot()}
	own.store.checkpoint = plan.Checkpoint
	defer func() {
		r.mu.Lock()
		r.body = own.snapshot()
		r.mu.Unlock()
	}()
	var out Rotated
	var old, next *TierKey
	if own.Rotating() {
		out.Resumed = true
		// Both copies must be of this state before images follow it: a crash may have
		// left the second one behind.
		err = own.change(ctx, key, func(body *ringBody) (err error) {
			next = key
			old, err = body.previousKey(key)
			return err
		})
	} else {
		old = key
		if err = plan.check(ctx, key); err == nil {
			next, err = own.turn(ctx, key, plan)
		}
		if next != nil {
			defer func() { err = errors.Join(err, next.Close()) }()
		}
	}
	if err != nil {
		return out, err
	}
	if out.Resumed {
		defer func() { err = errors.Join(err, old.Close()) }()
	}
	failed, err := plan.exchange(ctx, old, next)
	if err != nil {
		return out, err
	}
	if len(failed) > 0 && !plan.Force {
		return out, &UnfinishedError{Begun: true, Images: failed}
	}
	out.Images, out.Lost = len(plan.Images)-len(failed), failed
	return out, own.change(ctx, next, func(body *ringBody) error {
		body.Previous = nil
		return nil
	})
}

// check tries every image.
func (p Rotation) check(ctx context.Context, key *TierKey) error {
	if p.Force {
		return nil
	}
	var failed []*ImageError
	for _, im := range p.Images {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := im.Opens(ctx, key); err != nil {
			failed = append(failed, &ImageError{im.Title(), err})
		}
	}
	if len(failed) > 0 {
		return &UnfinishedError{Images: failed}
	}
	return nil
}

// exchange rotates image after image. A failed image does not stop the others.
func (p Rotation) exchange(ctx context.Context, old, next *TierKey) (failed []*ImageError, err error) {
	for i, im := range p.Images {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("rotation interrupted: %w", err)
		}
		if p.Checkpoint != nil {
			if err := p.Checkpoint("exchange " + im.Title()); err != nil {
				return nil, err
			}
		}
		if err := im.Exchange(ctx, old, next); err != nil {
			failed = append(failed, &ImageError{im.Title(), err})
		}
		if p.Progress != nil {
			p.Progress(i+1, len(p.Images), im.Title())
		}
	}
	return failed, nil
}
