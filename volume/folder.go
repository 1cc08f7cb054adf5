package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"layervault/internal/durable"
	"layervault/internal/flock"
	"layervault/internal/mounts"
	"layervault/persist"
)

// recordFile is the record of a volume of the clear tier, in its folder.
const recordFile = "volume.json"

// folders are the volumes of the clear tier. Each is a folder, with its record in a file.
type folders struct{}

func (folders) tier() persist.Tier { return persist.Clear }

func (folders) keyTier() (persist.Tier, bool) { return persist.Vault, false }

func (folders) path(l persist.Layout, id ID) string {
	return filepath.Join(l.Volumes(persist.Clear), id.String())
}

func (folders) recordFile(path string) string { return filepath.Join(path, recordFile) }

func (folders) content(r Record, revision string) place { return ownContent(r, revision) }

func (folders) notImage(Options) string {
	return "a volume of the clear tier is a folder without a size, cipher or mount of its own"
}

func (folders) fit(o Options) Options {
	o.Platform = ""
	return o.withoutImage()
}

// sweep removes the half-made, and half-removed, folders.
func (folders) sweep(ctx context.Context, dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		if !e.IsDir() || !strings.HasPrefix(e.Name(), ".") || !strings.Contains(e.Name(), ".tmp-") {
			continue
		}
		errs = append(errs, removeUnlocked(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}

func (folders) of(s *Store, v Volume) backing { return folder{part{v, s}} }

// folder is a volume of the clear tier.
type folder struct{ part }

func (f folder) create(context.Context) (err error) {
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o700); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(f.Path), "."+filepath.Base(f.Path)+".tmp-")
	if err != nil {
		return err
	}
	hold, err := os.Open(tmp)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
		err = errors.Join(err, hold.Close())
	}()
	if err := flock.TryLock(hold, flock.Exclusive); err != nil { // folders.sweep leaves it alone
		return err
	}
	root, err := os.OpenRoot(tmp)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	data, err := f.encodeFile()
	if err != nil {
		return err
	}
	if err := makeDir(root, contentDir); err != nil {
		return err
	}
	if err := durable.WriteFile(root, recordFile+".tmp", recordFile, data, 0o600); err != nil {
		return err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, f.Path, unix.RENAME_NOREPLACE); err != nil {
		return fmt.Errorf("rename to %s: %w", f.Path, err)
	}
	return durable.SyncPath(filepath.Dir(f.Path))
}

func (f folder) within(_ context.Context, do func(root string) error) error { return do(f.Path) }

func (f folder) mounts() (func(*mountinfo.Info) bool, error) {
	dev, root, err := withinFileSystem(f.Path)
	if err != nil {
		return nil, err
	}
	onDevice := mounts.OnDevice(dev)
	return func(m *mountinfo.Info) bool { return onDevice(m) && strings.HasPrefix(m.Root, root+"/") }, nil
}

func (f folder) users() (string, error) { return f.usersOf(f.mounts()) }

func (f folder) sizes() (device, occupied int64, err error) {
	occupied, err = allocated(f.Path)
	return 0, occupied, err
}

// destroy renames the folder, so that it is no longer a volume, and then removes it. Flags that
// forbid that, such as chattr +i, are cleared first; if that fails, the volume stays.
func (f folder) destroy(context.Context) error {
	tmp := filepath.Join(filepath.Dir(f.Path), "."+filepath.Base(f.Path)+".tmp-remove")
	if err := removeAll(tmp); err != nil { // of an earlier generation's crash
		return err
	}
	if err := makeRemovable(f.Path); err != nil {
		return err
	}
	if err := os.Rename(f.Path, tmp); err != nil {
		return err
	}
	return removeAll(tmp)
}

// removeUnlocked removes a folder unless it is locked, that is, in use.
func removeUnlocked(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := flock.TryLock(f, flock.Exclusive); errors.Is(err, flock.ErrHeld) {
		return nil
	}
	return removeAll(path)
}

// withinFileSystem gives the device of a path's file system, and where in that it lies.
func withinFileSystem(at string) (dev uint64, root string, err error) {
	m, err := mounts.Of(at)
	if err != nil {
		return 0, "", err
	}
	rest, err := filepath.Rel(m.Mountpoint, at)
	if err != nil {
		return 0, "", err
	}
	return unix.Mkdev(uint32(m.Major), uint32(m.Minor)), path.Join(m.Root, rest), nil
}
