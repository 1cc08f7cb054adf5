package keys

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"layervault/internal/durable"
)

// MaxBackup bounds what a caller reads as a backup: more than is taken for one.
const MaxBackup = 2 * maxRingBytes

// VerifyBackup reads the file of a backup back, because a disk may not report a failed write.
func (r *Ring) VerifyBackup(name string) error {
	back, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if _, err := ReadBackup(back, r.Path(), nil); err != nil {
		return fmt.Errorf("%s reads back differently than written: %w", name, err)
	}
	return nil
}

// Backup returns the ring in the form that Restore reads. It contains the same as
// keyring.json: no key in the clear, but every slot, and a passphrase can be guessed.
// The secrets of the slots are not in it: key file, TPM. During a rotation it refuses
// (ErrUnfinished): such a backup would restore the old key.
func (r *Ring) Backup() ([]byte, error) {
	body := r.snapshot()
	if body.Previous != nil {
		return nil, fmt.Errorf("%w: no backup during a rotation", ErrUnfinished)
	}
	return encodeRing(body)
}

// ReadBackup decodes the result of Backup, as a ring that would lie at path. Nothing is
// written; Unlock and Restore work on it. Errors: ErrBadBackup, ErrNewerRing.
func ReadBackup(data []byte, path string, log *slog.Logger) (*Ring, error) {
	if len(data) > maxRingBytes {
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrBadBackup, maxRingBytes)
	}
	body, err := decodeRing(data)
	if errors.Is(err, errDamagedCopy) {
		return nil, fmt.Errorf("%w: %w", ErrBadBackup, err)
	}
	if err != nil {
		return nil, err
	}
	return &Ring{store: store{path: path, log: orDiscard(log)}, body: body, copied: true}, nil
}

// Restore writes a ring from ReadBackup to its path. Damaged copies there are kept as
// *.damaged. An intact ring is only replaced with force (ErrRingExists names the
// differences), and kept as *.replaced: its slots stay valid until that file is
// deleted.
//
// With the backup's key the ring becomes a new write, and the anchor (Use) is updated.
// With a nil key it is written unchanged, and an anchor that recorded later writes refuses
// it without a person; key recover repairs that.
func (r *Ring) Restore(ctx context.Context, key *TierKey, force bool) error {
	dir := filepath.Dir(r.store.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("restore key ring: %w", err)
	}
	if err := r.restore(ctx, key, force); err != nil {
		return err
	}
	r.copied = false
	if key == nil {
		return nil
	}
	return r.Reanchor(ctx, key)
}

func (r *Ring) restore(ctx context.Context, key *TierKey, force bool) error {
	unlock, err := r.store.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	body := r.snapshot()
	present, _, err := r.store.read()
	switch {
	case errors.Is(err, ErrNoRing):
	case errors.Is(err, ErrDamagedRing):
		if err := r.store.setAside(".damaged"); err != nil {
			return err
		}
	case err != nil:
		return err
	case !force:
		return fmt.Errorf("%w at %s: %s", ErrRingExists, r.store.path, differs(present, body))
	default:
		data, err := encodeRing(present)
		if err != nil {
			return err
		}
		if err := r.store.writeDurable(r.store.path+".replaced", data); err != nil {
			return fmt.Errorf("keep the present key ring: %w", err)
		}
	}
	if key != nil {
		if err := body.prove(key); err != nil {
			return err
		}
		// Above all recorded generations, so that no older copy is taken for the newer one.
		body.Generation = max(body.Generation, present.Generation, r.lookUp(ctx, key, body).pinned) + 1
		return r.commit(ctx, key, body)
	}
	r.store.sweep()
	if err := r.store.write(body); err != nil {
		return err
	}
	r.mu.Lock()
	r.body = body
	r.mu.Unlock()
	return nil
}

// differs describes the changes of a restore.
func differs(present, backup ringBody) string {
	switch {
	case present.ID != backup.ID:
		return fmt.Sprintf("present ring is %s, backup is of ring %s", present.ID, backup.ID)
	case present.Check != backup.Check:
		return "tier key was rotated after the backup; the backup opens none of the images"
	default:
		return fmt.Sprintf("present ring is intact with %d slots (write %d); backup has %d slots (write %d) and would restore slots removed since",
			len(present.Slots), present.Generation, len(backup.Slots), backup.Generation)
	}
}

// setAside renames both copies.
func (s store) setAside(suffix string) error {
	for _, path := range []string{s.path, s.backup()} {
		if err := os.Rename(path, path+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("keep the damaged key ring: %w", err)
		}
	}
	return durable.SyncPath(filepath.Dir(s.path))
}
