package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/internal/durable"
	"layervault/internal/flock"
	"layervault/internal/mounts"
	"layervault/persist"
	"layervault/volume"
)

var (
	// ErrNotFound: no disk has that name or alias.
	ErrNotFound = errors.New("no such disk")
	// ErrUnsupported: a type that only Pantavisor opens.
	ErrUnsupported = errors.New("only Pantavisor opens disks of this type")
	// ErrKeyMissing: an image without the file that its key comes from.
	ErrKeyMissing = errors.New("disk key is missing")
	// ErrImageMissing: the disk was made, and its image is gone.
	ErrImageMissing = errors.New("disk image is missing")
	// ErrBadKey: the file a key comes from makes no sense.
	ErrBadKey = errors.New("disk key file is damaged")
	// ErrOutside: a symbolic link leads out of where disks may be.
	ErrOutside = errors.New("disk is outside the folder for disks")
	// ErrTool: a program that a vendor's keys need is missing or failed.
	ErrTool = errors.New("disk key tool failed")
)

// Config makes a Set.
type Config struct {
	Rules Rules
	// Keys opens a tier, for disks of type luks.
	Keys func(ctx context.Context, tier persist.Tier) (crypt.KeySource, error)
	// Params are how new images of type luks are encrypted.
	Params crypt.Params
	Log    *slog.Logger // nil for slog.Default()
	// Tools are how vendors' keys are reached; the zero value is right outside tests.
	Tools Tools
	// Checkpoint, if set, is called at each step of a first boot at which a crash leaves
	// another state. Its error ends it there.
	Checkpoint func(disk, step string) error
}

// Set is the disks of one device.json. It holds no state: whether a disk is open is asked
// of the kernel.
type Set struct {
	cfg  Config
	file File
	bad  error // the reason why there are none
}

var _ volume.Disks = (*Set)(nil)

// New makes a set of the disks of a file.
func New(cfg Config, file File) *Set {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	cfg.Tools.fill()
	return &Set{cfg: cfg, file: file}
}

// Load reads a file. On an error the set is not nil: it returns the error for each disk, so
// that a bad file affects only volumes on disks.
func Load(cfg Config, name string) (*Set, error) {
	s := New(cfg, File{})
	text, err := readFile(name)
	if err == nil {
		s.file, err = parse(text, cfg.Rules, listIn(name))
	}
	if err != nil {
		s.bad = fmt.Errorf("%s: %w", name, err)
	}
	return s, s.bad
}

// listIn is the list that a file of disks alone is.
func listIn(name string) string {
	if filepath.Base(name) == lenientList+".json" {
		return lenientList
	}
	return "disks"
}

func readFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%w: must be a regular file of at most %d bytes", ErrBadFile, maxFile)
	}
	return os.ReadFile(name)
}

// File is the content of the file.
func (s *Set) File() File { return s.file }

// Warnings are the ignored entries of the file, in its order.
func (s *Set) Warnings() []Warning { return s.file.Warnings }

// Find finds a disk by name or alias.
func (s *Set) Find(name string) (Disk, error) {
	if s.bad != nil {
		return Disk{}, s.bad
	}
	if d, ok := s.file.Find(name); ok {
		return d, nil
	}
	if d, ok := s.file.Default(); ok && name == "default" {
		return d, nil
	}
	return Disk{}, fmt.Errorf("%w: %s", ErrNotFound, name)
}

// usable finds a disk that can be opened here.
func (s *Set) usable(name string) (Disk, error) {
	d, err := s.Find(name)
	switch {
	case err != nil:
		return Disk{}, err
	case !d.Known():
		return Disk{}, fmt.Errorf("disk %s: %w: %s", d.Name, ErrUnsupported, d.Type)
	case d.Fault != nil:
		return Disk{}, fmt.Errorf("disk %s: %w", d.Name, d.Fault)
	}
	return d, nil
}

// Resolve implements volume.Disks. The name "default" stands for the default disk, where
// no disk is called that.
func (s *Set) Resolve(name string) (string, error) {
	d, err := s.Find(name)
	if err == nil {
		err = d.Fault
	}
	return d.Name, err
}

// MountAt mounts a disk at a directory, once more if it is open already. The first time
// ever it makes image and key.
func (s *Set) MountAt(ctx context.Context, name, at string) error {
	d, err := s.usable(name)
	if err != nil {
		return err
	}
	if err := s.mountAt(ctx, d, at); err != nil {
		return fmt.Errorf("disk %s: %w", d.Name, err)
	}
	return nil
}

func (s *Set) mountAt(ctx context.Context, d Disk, at string) error {
	if err := s.within(d); err != nil {
		return err
	}
	opener := d.Type.kind().of(s, d)
	im, isImage := opener.(image)
	if !isImage {
		return opener.mount(ctx, at)
	}
	unlock, err := lockFolder(ctx, d.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.ready(ctx, d, im); err != nil {
		return err
	}
	return im.mount(ctx, at)
}

// within makes the folder, and refuses one that a symbolic link leads out of the root.
func (s *Set) within(d Disk) error {
	root, err := filepath.EvalSymlinks(s.cfg.Rules.Root)
	if err != nil {
		return err
	}
	// The part that is there already decides: what is made below it is no link.
	have := d.Dir
	for {
		if _, err := os.Lstat(have); err == nil || have == "/" {
			break
		}
		have = filepath.Dir(have)
	}
	real, err := filepath.EvalSymlinks(have)
	if err != nil {
		return err
	}
	if real != root && !strings.HasPrefix(real, strings.TrimSuffix(root, "/")+"/") {
		return fmt.Errorf("%w: %s resolves to %s, outside %s", ErrOutside, d.Dir, real, root)
	}
	mode := fs.FileMode(0o700)
	if !d.IsCrypt() {
		mode = 0o755
	}
	return os.MkdirAll(d.Dir, mode)
}

// lockFolder keeps another process from making the same disk.
func lockFolder(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	return flock.Keep(ctx, f)
}

func (s *Set) step(d Disk, step string) error {
	if s.cfg.Checkpoint == nil {
		return nil
	}
	return s.cfg.Checkpoint(d.Name, step)
}

// ready makes image and key of a new disk, and otherwise only checks that they exist. The
// folder is locked.
func (s *Set) ready(ctx context.Context, d Disk, im image) error {
	made, err := isFile(im.marker())
	if err != nil {
		return err
	}
	have, err := isFile(d.ImagePath())
	if err != nil {
		return err
	}
	switch {
	case made && !have:
		return fmt.Errorf("%w: %s, but the disk was set up before (%s)", ErrImageMissing, d.ImagePath(), im.marker())
	case made:
		return nil
	}
	if err := s.firstBoot(ctx, d, im, have); err != nil {
		return fmt.Errorf("set up the disk: %w", err)
	}
	return nil
}

// firstBoot does the steps of the package comment, or continues an interrupted one.
func (s *Set) firstBoot(ctx context.Context, d Disk, im image, haveImage bool) error {
	if err := im.ensureKey(ctx, haveImage); err != nil {
		return err
	}
	if err := s.step(d, "key"); err != nil {
		return err
	}
	if !haveImage {
		if err := im.create(ctx); err != nil {
			return err
		}
		if err := s.step(d, "image"); err != nil {
			return err
		}
	} else if err := tryImage(ctx, im); err != nil {
		return fmt.Errorf("existing image does not open, and is not formatted again: %w", err)
	}
	if err := touch(im.marker()); haveImage && errors.Is(err, unix.EROFS) {
		return nil // it opens; it is marked at the next mount that can write
	} else if err != nil {
		return err
	}
	s.cfg.Log.InfoContext(ctx, "set up a disk", "disk", d.Name, "type", string(d.Type), "image", d.ImagePath())
	return s.step(d, "init_done")
}

// tryImage checks that the key opens an existing image.
func tryImage(ctx context.Context, im image) (err error) {
	at, err := os.MkdirTemp("", "layervault-disk-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(at)) }()
	if err := im.mount(ctx, at); err != nil {
		return err
	}
	return mounts.Detach(at)
}

// roomFor rejects an image that does not fit: crypt.ErrNoSpace.
func roomFor(d Disk) error {
	var st unix.Statfs_t
	if err := unix.Statfs(d.Dir, &st); err != nil {
		return fmt.Errorf("%s: %w", d.Dir, err)
	}
	if free := int64(st.Bavail) * int64(st.Bsize); d.Size > free { //nolint:unconvert // 32 bit has another type
		return fmt.Errorf("%w: disk needs %d MiB, %s has %d MiB free", crypt.ErrNoSpace, d.Size>>20, d.Dir, free>>20)
	}
	return nil
}

// isFile reports whether there is a regular file; another kind of file is an error.
func isFile(name string) (bool, error) {
	info, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !info.Mode().IsRegular() {
		return false, fmt.Errorf("%w: %s is not a regular file", ErrOutside, name)
	}
	return true, nil
}

// touch makes an empty file durable.
func touch(name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	return durable.SyncPath(filepath.Dir(name))
}
