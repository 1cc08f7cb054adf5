package keys

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Ring is the key ring of one tier. It is safe for concurrent use, and several
// processes may use one file: writers take a lock and start from the ring on disk.
type Ring struct {
	store  store
	anchor Anchor // nil for none
	// unasked: the settings disable the anchor, whatever the ring names.
	unasked bool
	copied  bool // a backup, that is not in place: the anchor has no say yet

	mu   sync.Mutex
	body ringBody
}

// FileName is the ring's name in the folder of its tier.
const FileName = "keyring.json"

// Load reads the ring at path. One damaged copy is repaired from the other, with a
// warning to log. Errors: ErrNoRing, ErrDamagedRing, ErrNewerRing.
func Load(ctx context.Context, path string, log *slog.Logger) (*Ring, error) {
	r := &Ring{store: store{path: path, log: orDiscard(log)}}
	body, needsRepair, err := r.store.read()
	if err != nil {
		return nil, err
	}
	r.body = body
	if needsRepair {
		// The ring can be used either way (the disk may be read-only or full, or
		// another process in the middle of a write).
		if err := r.repair(ctx); err != nil {
			r.store.log.Warn("cannot repair the second copy of the key ring", "ring", path, "err", err)
		}
	}
	return r, nil
}

// repairTimeout bounds the wait for a writer that may hold the lock: it will write
// both copies itself, so nothing is lost by leaving the repair to the next load.
const repairTimeout = 2 * time.Second

// repair writes both copies from the sound one.
func (r *Ring) repair(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, repairTimeout)
	defer cancel()
	unlock, err := r.store.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	body, needed, err := r.store.read() // a writer may have been between the copies
	if err != nil || !needed {
		return err
	}
	r.store.sweep()
	if err := r.store.write(body); err != nil {
		return err
	}
	r.store.log.Warn("repaired the copies of the key ring", "ring", r.store.path)
	return nil
}

// Create makes a ring at path with a new random tier key and p's slot as the first.
// The folder is made (0700) when it is missing. It refuses with ErrRingExists, and
// with ErrRingLost when the folder already holds layers or volumes, which a new key
// could not open, or the anchor (nil for none) already records a ring of the tier.
// floor is the lowest format that the tier accepts. p must not be nil: ErrNoProvider.
func Create(ctx context.Context, path string, p Provider, label string, anchor Anchor, floor int, log *slog.Logger) (*Ring, *TierKey, error) {
	if p == nil {
		return nil, nil, ErrNoProvider
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("create key ring: %w", err)
	}
	r := &Ring{store: store{path: path, log: orDiscard(log)}, anchor: anchor}
	unlock, err := r.store.lock(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	switch _, _, err := r.store.read(); {
	case err == nil:
		return nil, nil, fmt.Errorf("%w at %s", ErrRingExists, path)
	case !errors.Is(err, ErrNoRing):
		return nil, nil, err
	}
	if err := RefuseIfUsed(dir); err != nil {
		return nil, nil, err
	}
	if err := r.refuseIfAnchored(ctx); err != nil {
		return nil, nil, err
	}
	key, err := newTierKey()
	if err != nil {
		return nil, nil, err
	}
	if err := r.fill(ctx, key, p, label, floor); err != nil {
		return nil, nil, errors.Join(err, key.Close())
	}
	r.store.sweep()
	if err := r.store.write(r.body); err != nil {
		return nil, nil, errors.Join(err, key.Close())
	}
	r.settle(ctx, key, r.body)
	return r, key, nil
}

func (r *Ring) fill(ctx context.Context, key *TierKey, p Provider, label string, floor int) error {
	r.body = ringBody{ID: uuid.NewString(), Generation: 1, Created: now(), Floor: floor, version: ringVersion}
	slot, err := newSlot(ctx, r.body, key, p, label)
	if err != nil {
		return err
	}
	r.body.Slots = []Slot{slot}
	r.firstAnchor(ctx, key, &r.body)
	return r.body.sign(key)
}

// newSlot wraps key with p.
func newSlot(ctx context.Context, body ringBody, key *TierKey, p Provider, label string) (Slot, error) {
	s := Slot{ID: newSlotID(body.Slots), Provider: p.Name(), Label: label, Created: now()}
	err := key.use(func(k []byte) (err error) {
		s.Blob, err = p.Wrap(ctx, body.binding(s), k)
		return err
	})
	if err != nil {
		return Slot{}, fmt.Errorf("make a key slot (%s): %w", p.Name(), err)
	}
	return s, nil
}

func (r ringBody) binding(s Slot) Binding {
	return Binding{RingID: r.ID, SlotID: s.ID, Provider: s.Provider}
}

// newSlotID is 8 random hex digits: short enough to type, and unique in the ring.
func newSlotID(slots []Slot) string {
	for {
		var raw [4]byte
		_, _ = rand.Read(raw[:]) // never fails, see newTierKey
		id := hex.EncodeToString(raw[:])
		if indexOf(slots, id) < 0 {
			return id
		}
	}
}

func indexOf(slots []Slot, id string) int {
	for i, s := range slots {
		if s.ID == id {
			return i
		}
	}
	return -1
}

// Path is the path of keyring.json.
func (r *Ring) Path() string { return r.store.path }

// ID is the ring's UUID.
func (r *Ring) ID() string { return r.snapshot().ID }

// Slots returns the slots in the ring's order.
func (r *Ring) Slots() []Slot { return r.snapshot().Slots }

// Slot finds one slot by its id. Error: ErrNotFound.
func (r *Ring) Slot(id string) (Slot, error) {
	slots := r.Slots()
	if i := indexOf(slots, id); i >= 0 {
		return slots[i], nil
	}
	return Slot{}, fmt.Errorf("%w: %q in %s", ErrNotFound, id, r.store.path)
}

// Find finds the slot whose id begins with name. Errors: ErrNotFound, ErrAmbiguous.
func (r *Ring) Find(name string) (Slot, error) {
	var found []Slot
	for _, s := range r.Slots() {
		if name != "" && strings.HasPrefix(s.ID, name) {
			found = append(found, s)
		}
	}
	switch len(found) {
	case 0:
		return r.Slot(name) // makes the error
	case 1:
		return found[0], nil
	default:
		return Slot{}, fmt.Errorf("%w %q: %s and %s", ErrAmbiguous, name, found[0].ID, found[1].ID)
	}
}

func (r *Ring) snapshot() ringBody {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.body.clone()
}

// change runs fn on the newest ring under the writers' lock and writes the result, signed
// with key. Errors: ErrWrongKey, *ForgedRing: a forged ring is never signed.
func (r *Ring) change(ctx context.Context, key *TierKey, fn func(*ringBody) error) error {
	return r.changeKey(ctx, key, func(body *ringBody) (*TierKey, error) { return key, fn(body) })
}

// changeKey is change for an fn that replaces the ring's key and returns the new one.
func (r *Ring) changeKey(ctx context.Context, key *TierKey, fn func(*ringBody) (*TierKey, error)) error {
	unlock, err := r.store.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	body, _, err := r.store.read()
	if err != nil {
		return err
	}
	if id := r.ID(); body.ID != id {
		return fmt.Errorf("%w: %s now holds ring %s, was %s", ErrBusy, r.store.path, body.ID, id)
	}
	if err := body.prove(key); err != nil {
		return err
	}
	before := body.clone()
	next, err := fn(&body)
	if err != nil {
		return err
	}
	body.Generation++
	if err := r.moveAnchor(ctx, key, next, before, &body); err != nil {
		return err
	}
	return r.commit(ctx, next, body)
}

// commit signs and writes body. The caller holds the lock.
func (r *Ring) commit(ctx context.Context, key *TierKey, body ringBody) error {
	if err := body.sign(key); err != nil {
		return err
	}
	r.store.sweep()
	if err := r.store.write(body); err != nil {
		return err
	}
	r.settle(ctx, key, body)
	r.mu.Lock()
	r.body = body
	r.mu.Unlock()
	return nil
}

// reload adopts the ring now on disk, if it is another write of this ring.
func (r *Ring) reload() bool {
	body, _, err := r.store.read()
	if err != nil {
		return false // what was loaded is still what there is
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if body.ID != r.body.ID || body.Generation == r.body.Generation {
		return false
	}
	r.body = body
	return true
}

// SetFloor raises the lowest format of images and records that the tier accepts; older
// ones are refused from then on. A ring of version 1 becomes one of version 2. A floor is
// never lowered. Errors: ErrWrongKey, *ForgedRing.
func (r *Ring) SetFloor(ctx context.Context, key *TierKey, floor int) error {
	return r.change(ctx, key, func(body *ringBody) error {
		if floor < body.floor() || floor > Format2 {
			return fmt.Errorf("floor of %s is %d and cannot be lowered to %d", r.store.path, body.floor(), floor)
		}
		body.Floor = floor
		return nil
	})
}

// Version is that of the ring's file: 1, which has no MAC, or 2.
func (r *Ring) Version() int { return r.snapshot().version }

func now() time.Time { return time.Now().UTC().Truncate(time.Second) }

func orDiscard(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}
