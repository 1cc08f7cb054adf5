package migrate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"layervault/internal/durable"
	"layervault/migrate/docker"
)

// save writes one image's tar to the folder. The order is: temporary file, fsync, rename, fsync of
// the folder, state. A crash before the last step leaves a tar that the next run writes anew.
func (m *Migration) save(ctx context.Context, row *Row, state *State) (Outcome, error) {
	e, err := m.entry(ctx, row, state)
	if errors.Is(err, docker.ErrNotFound) {
		return OutcomeGone, nil
	}
	if err != nil {
		return "", err
	}
	name := filepath.Join(m.Dir, tarFile(e.ID))
	temp := filepath.Join(filepath.Dir(name), ".tmp-"+filepath.Base(name))
	if e.TarSize, e.TarSum, err = m.saveTo(ctx, temp, &e); err != nil {
		if removeErr := os.Remove(temp); !errors.Is(removeErr, fs.ErrNotExist) {
			err = errors.Join(err, removeErr)
		}
		return "", err
	}
	if err := os.Rename(temp, name); err != nil {
		return "", fmt.Errorf("tar of the image: %w", err)
	}
	if err := durable.SyncPath(filepath.Dir(name)); err != nil {
		return "", fmt.Errorf("tar of the image: %w", err)
	}
	e.Stage = Saved
	state.set(e)
	return OutcomeSaved, state.write(m.Dir)
}

// saveTo writes the tar to a file, and returns its length and SHA-256.
func (m *Migration) saveTo(ctx context.Context, file string, e *Entry) (n int64, sum string, err error) {
	tar, done, err := m.tar(ctx, e)
	if err != nil {
		return 0, "", err
	}
	defer done()
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, "", fmt.Errorf("tar of the image: %w", err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, "", fmt.Errorf("tar of the image: %w", err)
	}
	hash := sha256.New()
	n, err = io.Copy(io.MultiWriter(f, hash), tar)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, "", fmt.Errorf("tar of the image: %w", err)
	}
	return n, hex.EncodeToString(hash.Sum(nil)), nil
}
