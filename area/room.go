package area

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"layervault/crypt/ext4"
	"layervault/persist"
)

// The floor is what the areas leave free of the disk: a disk that is full keeps a device from
// writing its status, its logs and its key ring, and such a device may reboot for ever. It is
// a sixteenth of the disk, within these bounds. The least is some hundred times what those
// writers need in a day. It is also what may be written between two calls of Bound by more than
// one writer at once, because each area may use all that was free: boundEvery at 25 MB/s, as
// an eMMC does. More than the most helps nobody on a large disk.
const (
	leastFloor = 256 << 20
	mostFloor  = 4 << 30
	floorShare = 16
)

// FloorOf is the floor of a disk with so many bytes. A disk on which the least would be more
// than half keeps half free.
func FloorOf(total int64) int64 {
	return min(max(total/floorShare, leastFloor), mostFloor, total/2)
}

// boundEvery is the time between two limits of Watch. It decides how far two writers can go
// below the floor, and how long an area stays shut after room was made.
const boundEvery = 10 * time.Second

// trimEvery is the time between two trims of Watch. What is deleted comes back by itself
// (discard); a trim finds the little that was missed, and reads all bitmaps for it.
const trimEvery = 24 * time.Hour

// Room is the space of the disk that the vault lies on, in bytes.
type Room struct {
	Total int64 `json:"total_bytes"`
	Free  int64 `json:"free_bytes"`
	Floor int64 `json:"floor_bytes"` // that the areas leave free
}

// Above is how much may still be written.
func (r Room) Above() int64 { return max(r.Free-r.Floor, 0) }

// RoomOf reads the space of a layout's disk. It needs no privilege. floor is that of Config.
func RoomOf(l persist.Layout, floor int64) (Room, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(l.Root, &st); err != nil {
		return Room{}, &os.PathError{Op: "statfs", Path: l.Root, Err: err}
	}
	r := Room{Total: int64(st.Blocks) * int64(st.Bsize), Free: int64(st.Bavail) * int64(st.Bsize), Floor: floor}
	if floor == 0 {
		r.Floor = FloorOf(r.Total)
	}
	return r, nil
}

// Room is RoomOf for the set.
func (s *Set) Room() (Room, error) { return RoomOf(s.cfg.Layout, s.cfg.Floor) }

// Bound limits an open area to what the disk has above its floor. A closed area is no error.
func (s *Set) Bound(ctx context.Context, a persist.Area) error {
	unlock, err := s.lock(ctx, a)
	if err != nil {
		return err
	}
	defer unlock()
	open, err := s.mounted(a)
	if err != nil || !open {
		return err
	}
	return s.bound(a)
}

// bound is Bound for an open area. A kernel that takes no limit leaves the area without: then
// the floor holds only for those who ask for it (package content).
func (s *Set) bound(a persist.Area) error {
	room, err := s.Room()
	if err != nil {
		return err
	}
	number, err := s.devices(a).Opened()
	if err != nil {
		return fmt.Errorf("limit area %s: %w", a, err)
	}
	err = limit(s.cfg.Layout.Area(a), number, room.Above())
	if errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("this kernel sets no limit to a file system: writers of an area can fill the disk", "area", a, "error", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("limit area %s: %w", a, err)
	}
	return nil
}

// limit makes a file system on a device reserve all its free blocks but those for above bytes.
// ext4 keeps such reserved clusters from everybody. (A cluster is a block: the images have no
// larger ones.)
func limit(at string, device uint64, above int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: at, Err: err}
	}
	link, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(device), unix.Minor(device)))
	if err != nil {
		return err
	}
	reserved := max(int64(st.Bfree)-above/int64(st.Bsize), 0)
	name := filepath.Join("/sys/fs/ext4", filepath.Base(link), "reserved_clusters")
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.FormatInt(reserved, 10))
	return errors.Join(err, f.Close())
}

// Trim gives the space of deleted files back to the disk. It returns how many bytes the area's
// image occupied before and after.
func (s *Set) Trim(ctx context.Context, a persist.Area) (before, after int64, err error) {
	unlock, err := s.lock(ctx, a)
	if err != nil {
		return 0, 0, err
	}
	defer unlock()
	open, err := s.mounted(a)
	if err == nil && !open {
		err = fmt.Errorf("trim area %s: %w", a, ErrClosed)
	}
	if err != nil {
		return 0, 0, err
	}
	if before, err = occupied(s.cfg.Layout.AreaImage(a)); err != nil {
		return 0, 0, err
	}
	at := s.cfg.Layout.Area(a)
	if err := syncFS(at); err != nil { // deleted blocks are free only after the journal was committed
		return before, before, err
	}
	if _, err := ext4.Trim(at); err != nil {
		return before, before, fmt.Errorf("area %s: %w", a, err)
	}
	if err := syncFS(at); err != nil {
		return before, before, err
	}
	after, err = occupied(s.cfg.Layout.AreaImage(a))
	return before, after, errors.Join(err, s.bound(a))
}

func syncFS(at string) error {
	dir, err := os.Open(at)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close())
}

// occupied is how many bytes of a file are on the disk.
func occupied(name string) (int64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	return st.Blocks * 512, nil
}

// Watch limits the open areas again and again, and trims them now and then, until ctx ends. An
// error of one area is logged and does not stop it.
func (s *Set) Watch(ctx context.Context) error {
	tick := time.NewTicker(boundEvery)
	defer tick.Stop()
	trimmed := time.Now()
	for {
		trim := time.Since(trimmed) > trimEvery
		if trim {
			trimmed = time.Now()
		}
		for _, a := range persist.Areas {
			err := s.Bound(ctx, a)
			if trim && err == nil {
				_, _, err = s.Trim(ctx, a)
			}
			if err != nil && !errors.Is(err, ErrClosed) && ctx.Err() == nil {
				s.log.ErrorContext(ctx, "cannot look after an area", "area", a, "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
