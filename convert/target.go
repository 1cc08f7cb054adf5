package convert

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"layervault/persist"
)

// Area is a part of the new layout that items go to.
type Area string

// The areas. Volumes of the vault and of the clear tier are two, because they lie on different
// disks; the others are folders on encrypted images of their own.
const (
	Volumes      Area = "volumes"       // vault/volumes
	ClearVolumes Area = "clear-volumes" // clear/volumes
	Verifier     Area = "verifier"      // vault/verifier
	Downloader   Area = "downloader"    // vault/downloader
	Case         Area = "case"          // vault/case: containerd's root and content
)

// areas are all of them.
var areas = []Area{Volumes, ClearVolumes, Verifier, Downloader, Case}

// Target is where an item goes: one name in a folder.
type Target struct {
	Area Area `json:"area"`
	// Volume is the volume that the name lies in, <uuid>#<generation>; "" in other areas.
	Volume string `json:"volume,omitempty"`
	// Dir is the folder of the area, "" for its top.
	Dir string `json:"dir,omitempty"`
	// Name is the name in the folder.
	Name string `json:"name"`
	// Size is what the configuration gives the volume, in bytes; 0 where it says nothing.
	Size int64 `json:"size,omitempty"`
}

// String is the target as reports have it.
func (t Target) String() string {
	dir := map[Area]string{
		Volumes: "vault/volumes", ClearVolumes: "clear/volumes", Verifier: "vault/verifier", Downloader: "vault/downloader", Case: "vault/case",
	}[t.Area]
	return filepath.Join(dir, t.Volume, t.Dir, t.Name)
}

// Room is what a disk has room for.
type Room struct {
	// Pool names the disk. Targets with the same pool share the free bytes; Disk(path) is that
	// of a folder.
	Pool string
	Free int64
	// Extra is what a target takes beside its content, such as the header and the file system of
	// an image.
	Extra int64
}

// Places are the destinations: open areas, and volumes that can be made. The methods are called
// one at a time.
type Places interface {
	// Look says whether a target is taken. It makes nothing.
	Look(ctx context.Context, t Target) (taken bool, err error)
	// Room says what the disks that a target takes space of have room for: an image takes space of
	// its own and of the disk below. It makes nothing.
	Room(ctx context.Context, t Target) ([]Room, error)
	// Open gives the path of the folder that the target's name goes into, and makes the folder,
	// or a volume with room for need. The path stays valid until release.
	Open(ctx context.Context, t Target, need Need) (dir string, release func() error, err error)
	// Sweep releases what a run that was killed had open. No other run is there.
	Sweep(ctx context.Context) error
}

// Need is what a volume must have room for: its files, with their holes.
type Need struct{ Bytes, Files int64 }

// ErrNoArea: an area is not open.
var ErrNoArea = errors.New("area is not open")

// Folders are areas that are mounted somewhere, by the path of each. Volumes is here, too: a
// folder for each volume; package volume's are Store's.
type Folders map[Area]string

func (f Folders) dir(t Target) (string, error) {
	at, ok := f[t.Area]
	if !ok {
		return "", fmt.Errorf("%w: %s", ErrNoArea, t.Area)
	}
	return filepath.Join(at, t.Volume, t.Dir), nil
}

// Look implements Places.
func (f Folders) Look(_ context.Context, t Target) (bool, error) {
	dir, err := f.dir(t)
	if err != nil {
		return false, err
	}
	if t.Volume != "" {
		return holdsOther(dir)
	}
	_, err = os.Lstat(filepath.Join(dir, t.Name))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// holdsOther reports whether a volume's folder has something that no upgrade staged.
func holdsOther(dir string) (bool, error) {
	names, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	other := slices.ContainsFunc(names, func(e os.DirEntry) bool { return !isStage(e.Name()) && e.Name() != "lost+found" })
	return other, err
}

// Room implements Places.
func (f Folders) Room(_ context.Context, t Target) ([]Room, error) {
	if _, err := f.dir(t); err != nil {
		return nil, err
	}
	return roomOn(f[t.Area])
}

// roomOn is the room of one disk.
func roomOn(path string) ([]Room, error) {
	pool, free, err := Disk(path)
	return []Room{{Pool: pool, Free: free}}, err
}

// Sweep implements Places: nothing of a run lasts.
func (f Folders) Sweep(context.Context) error { return nil }

// Open implements Places.
func (f Folders) Open(_ context.Context, t Target, _ Need) (string, func() error, error) {
	dir, err := f.dir(t)
	if err != nil {
		return "", nil, err
	}
	root, err := os.OpenRoot(f[t.Area])
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = root.Close() }()
	if below := filepath.Join(t.Volume, t.Dir); below != "" {
		if err := root.MkdirAll(below, 0o700); err != nil {
			return "", nil, err
		}
		if err := giveToAgent(root, below); err != nil {
			return "", nil, err
		}
	}
	return dir, func() error { return nil }, nil
}

// giveToAgent gives a folder to the owner of its area.
func giveToAgent(area *os.Root, below string) error {
	var st unix.Stat_t
	if err := unix.Stat(area.Name(), &st); err != nil {
		return &os.PathError{Op: "stat", Path: area.Name(), Err: err}
	}
	if st.Uid == 0 && st.Gid == 0 {
		return nil
	}
	return area.Chown(below, int(st.Uid), int(st.Gid))
}

// Images are Folders on images that grow on one disk.
type Images struct {
	Folders

	On string // a folder of the disk
}

// Room implements Places.
func (i Images) Room(ctx context.Context, t Target) ([]Room, error) {
	inside, err := i.Folders.Room(ctx, t)
	if err != nil {
		return nil, err
	}
	below, err := roomOn(i.On)
	return append(inside, below...), err
}

// Split takes volumes and areas from two sources.
type Split struct{ Volumes, Areas Places }

func (s Split) of(t Target) Places {
	if t.Volume != "" {
		return s.Volumes
	}
	return s.Areas
}

// Sweep implements Places.
func (s Split) Sweep(ctx context.Context) error {
	return errors.Join(s.Volumes.Sweep(ctx), s.Areas.Sweep(ctx))
}

// Look implements Places.
func (s Split) Look(ctx context.Context, t Target) (bool, error) { return s.of(t).Look(ctx, t) }

// Room implements Places.
func (s Split) Room(ctx context.Context, t Target) ([]Room, error) { return s.of(t).Room(ctx, t) }

// Open implements Places.
func (s Split) Open(ctx context.Context, t Target, need Need) (string, func() error, error) {
	return s.of(t).Open(ctx, t, need)
}

// Disk names the disk that a folder lies on, and says how many bytes are free for root.
func Disk(path string) (pool string, free int64, err error) {
	var st unix.Stat_t
	var fs unix.Statfs_t
	if err := unix.Stat(path, &st); err != nil {
		return "", 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if err := unix.Statfs(path, &fs); err != nil {
		return "", 0, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)), int64(fs.Bavail) * fs.Bsize, nil
}

// volumeArea is the area of a volume. What comes from containers is always encrypted.
func volumeArea(clear bool, format string) (Area, persist.Tier) {
	if clear && format != container {
		return ClearVolumes, persist.Clear
	}
	return Volumes, persist.Vault
}
