package vault

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"layervault/crypt"
	"layervault/crypt/ext4"
	"layervault/crypt/luks2"
	"layervault/keys"
	"layervault/keys/unlock"
	"layervault/layer"
	"layervault/persist"
)

// ErrDamagedLayers: layers were read to their end, and some are not what they were.
var ErrDamagedLayers = errors.New("damaged layers")

// The states of a layer that was verified.
const (
	LayerOK      = "ok"      // all of it is what was imported
	LayerDamaged = "damaged" // Err says what is not
	LayerNoTree  = "no-tree" // all of it can be read; nothing says what it must be
	LayerFailed  = "failed"  // nothing is known: Err says why
)

// VerifiedLayer is a layer that was read. The JSON names are those of layer verify --json.
type VerifiedLayer struct {
	Layer string `json:"layer"`
	Tier  string `json:"tier"`
	State string `json:"state"`
	Bytes int64  `json:"bytes"` // of file system and hash tree
	// BadBlocks are the blocks of 4096 bytes of the decrypted image that are not what they were, at
	// most 64.
	BadBlocks []BadBlock `json:"bad_blocks,omitempty"`
	Err       error      `json:"-"`
	Error     string     `json:"error,omitempty"`
	Next      string     `json:"next,omitempty"` // for the caller to fill in
}

// BadBlock is one block.
type BadBlock struct {
	Block uint64 `json:"block"`
	Level int    `json:"level"` // of the hash tree; 0 for the file system
}

// Verifying says which layers are verified, and who hears of it.
type Verifying struct {
	// Layer is a layer's ID, the start of one, or the path of its image; "" for all sealed layers.
	Layer string
	// Progress, if not nil, gets the bytes that are done of layer n of count; n begins with 1.
	Progress func(n, count int, done, total int64)
	// Done gets each layer. Its error ends the run.
	Done func(VerifiedLayer) error
}

// VerifyLayers reads sealed layers of all tiers that have a key, and compares them with their hash
// trees. Layers may be in use; a rotation of a tier's key waits. A damaged layer is told of, and the
// next one read.
//
// Errors: ErrDamagedLayers, at the end; else why layers or a tier could not be verified; those of
// FindLayer for w.Layer.
func (v *Vault) VerifyLayers(ctx context.Context, w Verifying) error {
	var sum verifySum
	var errs []error
	tiers := SealedTiers
	if w.Layer != "" {
		tier, id, err := findTier(ctx, v.cfg.Layout, w.Layer)
		if err != nil {
			return err
		}
		tiers, w.Layer = []persist.Tier{tier}, id
	}
	for _, tier := range tiers {
		err := v.verifyTier(ctx, tier, w, &sum)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("verify layers of %s: %w", tier, err))
		}
	}
	if sum.damaged > 0 {
		text := ""
		for _, err := range append(errs, sum.failed...) {
			text += fmt.Sprintf("; %v", err) // the damage decides what the error is
		}
		return fmt.Errorf("%w: %d of %d%s", ErrDamagedLayers, sum.damaged, sum.all, text)
	}
	return errors.Join(append(errs, sum.failed...)...)
}

// verifySum counts layers that were verified.
type verifySum struct {
	all, damaged int
	failed       []error
}

func (v *Vault) verifyTier(ctx context.Context, tier persist.Tier, w Verifying, sum *verifySum) (err error) {
	r, err := layer.OpenReader(v.cfg.Layout.Layers(tier))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	ids := []string{w.Layer}
	if w.Layer == "" {
		if ids, err = r.IDs(); err != nil || len(ids) == 0 {
			return err
		}
	}
	source, closeSource, err := v.shareKey(ctx, tier)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeSource()) }()
	if w.Layer == "" {
		ids = v.sealed(r, ids, source)
	}
	for n, id := range ids {
		var progress func(done, total int64)
		if w.Progress != nil {
			progress = func(done, total int64) { w.Progress(n+1, len(ids), done, total) }
		}
		result, err := r.Verify(ctx, id, source, v.log, progress)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		switch {
		case errors.Is(err, layer.ErrNotFound) && w.Layer == "":
			continue // removed meanwhile
		case errors.Is(err, crypt.ErrNoMapper), errors.Is(err, crypt.ErrNoLoop):
			return err // nor can any other be opened
		}
		one := verifiedLayer(tier, id, result, err)
		sum.add(one)
		if err := w.Done(one); err != nil {
			return err
		}
	}
	return nil
}

// sealed leaves out the layers that are not sealed, as their authentic records say. What is wrong
// with a record is said when its layer is verified.
func (v *Vault) sealed(r *layer.Reader, ids []string, keys crypt.KeySource) (out []string) {
	for _, id := range ids {
		rec, err := r.Get(id)
		if errors.Is(err, layer.ErrNotFound) || err == nil && rec.Kind != layer.Sealed && r.Authenticate(rec, keys) == nil {
			continue
		}
		out = append(out, id)
	}
	return out
}

// shareKey opens a tier that has a ring, for a reader: no rotation begins before it is closed.
func (v *Vault) shareKey(ctx context.Context, tier persist.Tier) (_ crypt.KeySource, closeAll func() error, err error) {
	cfg := v.cfg.Keys(tier)
	if v.cfg.Recovery != nil {
		typed, err := v.cfg.Recovery()
		if err != nil {
			return nil, nil, err
		}
		defer clear(typed)
		cfg.Recovery = typed
	}
	key, ring, _, err := unlock.Open(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	release, err := v.Contents(tier).shareWaiting(ctx)
	if err != nil {
		return nil, nil, errors.Join(err, key.Close())
	}
	if ring.Rotating() { // one that was cut short: some images want the older key
		return nil, nil, errors.Join(fmt.Errorf("%w: tier key rotation is pending", keys.ErrUnfinished), release(), key.Close())
	}
	source := unlock.NewSource(cfg, key)
	return source, func() error { return errors.Join(source.Close(), release()) }, nil
}

// damage is what is wrong with a layer on the disk. Other errors say nothing about it.
var damage = []error{
	crypt.ErrCorrupt, crypt.ErrUnreadable, crypt.ErrNotExist, crypt.ErrOldFormat, ext4.ErrNotExt4,
	layer.ErrDamaged, layer.ErrOtherImage,
	luks2.ErrDamaged, luks2.ErrNotLUKS2, luks2.ErrNotAuthentic, luks2.ErrForbidden, luks2.ErrTooCostly, luks2.ErrNoKey,
}

func verifiedLayer(tier persist.Tier, id string, result crypt.Verification, err error) VerifiedLayer {
	one := VerifiedLayer{Layer: id, Tier: string(tier), State: LayerOK, Bytes: result.Bytes, Err: err}
	if err == nil {
		if !result.Compared {
			one.State = LayerNoTree
		}
		return one
	}
	one.State, one.Error = LayerFailed, err.Error()
	for _, target := range damage {
		if errors.Is(err, target) {
			one.State = LayerDamaged
		}
	}
	if corrupt, is := errors.AsType[*crypt.CorruptError](err); is {
		for _, b := range corrupt.Bad {
			one.BadBlocks = append(one.BadBlocks, BadBlock{b.Block, b.Level})
		}
	}
	return one
}

func (s *verifySum) add(one VerifiedLayer) {
	s.all++
	switch one.State {
	case LayerDamaged:
		s.damaged++
	case LayerFailed:
		s.failed = append(s.failed, one.Err)
	}
}

// findTier is FindLayer for layers of all tiers that have a key.
func findTier(ctx context.Context, l persist.Layout, name string) (tier persist.Tier, id string, err error) {
	missing := fmt.Errorf("%w: %s", layer.ErrNotFound, name)
	for n, t := range SealedTiers {
		if filepath.IsAbs(name) && !strings.HasPrefix(filepath.Clean(name), l.Layers(t)+"/") {
			continue
		}
		im, err := findLayerOf(ctx, l, t, name)
		switch {
		case errors.Is(err, layer.ErrNotFound):
			if n == 0 { // which may name records that cannot be read
				missing = err
			}
		case err != nil:
			return "", "", err
		case id != "":
			return "", "", fmt.Errorf("layer %q: %w: %s of %s and %s of %s", name, ErrAmbiguous, id, tier, im.ID, t)
		default:
			tier, id = t, im.ID
		}
	}
	if id == "" {
		return "", "", missing
	}
	return tier, id, nil
}
