package convert

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// What moving one item does, and what a crash leaves before each step:
//
//	1  journal: copying           the source; the target is free
//	2  folder or volume is made   the same, and a target that the journal calls ours
//	3  copied, batch by batch     a staged copy, .upgrade-<digest of the source>.tmp, in part:
//	                              marked files are complete and durable, others are copied again
//	4  finished, disk synced      all of it, with its links and metadata
//	5  journal: ready             the same: from here on the staged copy alone counts
//	6  marks removed, disk synced the same, with some marks or none; in an area of an agent,
//	                              given to it in part
//	7  renamed, folder synced     the staged copy, or the copy by its name: never both, and
//	                              never in the place of another (RENAME_NOREPLACE)
//	8  journal: copied            the copy; the source is kept
//
// and with Commit, now or in a later run:
//
//	9  source compared            the copy and the source
//	10 journal: destroying        the same: from here on the source may be in part
//	11 overwritten, synced        a source of zeros, in part
//	12 removed, folder synced     a source that lacks names
//	13 journal: gone              the copy
//
// Run again, it goes on at the step that the journal names.

// stageName is where an item is staged, beside its target.
func stageName(source string) string {
	sum := sha256.Sum256([]byte(source))
	return ".upgrade-" + hex.EncodeToString(sum[:8]) + ".tmp"
}

func isStage(name string) bool {
	return strings.HasPrefix(name, ".upgrade-") && strings.HasSuffix(name, ".tmp")
}

// snapshotFile is where EVE looks for the name that a container's folder had: containerd knows
// its snapshot by that name (pillar, containerd: SaveSnapshotID).
const snapshotFile = "snapshotid.txt"

// move brings an item as far as it goes.
func (r *run) move(it *Item, line *Line) error {
	r.count.item(it.Source)
	rec := r.state.j.Items[it.Source]
	if rec == nil || rec.Phase == copying {
		rec = &record{Kind: it.Kind, Target: it.Target, Phase: copying, Files: it.tree.files, Bytes: it.tree.bytes}
	}
	if rec.Phase == copying || rec.Phase == ready {
		if err := r.copy(it, rec); err != nil {
			return err
		}
	}
	line.Status, line.Digest, line.Files, line.Bytes = Copied, rec.Digest, rec.Files, rec.Bytes
	if rec.Phase == gone {
		line.Status = Moved
		return nil
	}
	if !r.Commit && rec.Phase == copied {
		return nil
	}
	if err := r.destroy(it, rec); err != nil {
		return err
	}
	line.Status = Moved
	return nil
}

// copy does the steps 1 to 8.
func (r *run) copy(it *Item, rec *record) (err error) {
	if rec.Phase == copying {
		if err := r.begin(it, rec); err != nil {
			return err
		}
	}
	to, release, err := r.open(it.Target, it.tree.room())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	stage := stageName(it.Source)
	if rec.Phase == copying {
		err := r.stage(it, rec, to, stage)
		if err != nil {
			return r.unstage(it, to, stage, err)
		}
	}
	if err := r.rename(it, to, stage); err != nil {
		return err
	}
	if err := r.step("copied"); err != nil {
		return err
	}
	rec.Phase = copied
	return r.state.set(r.ctx, it.Source, rec)
}

// open opens the folder that a target goes into.
func (r *run) open(t Target, need Need) (*folder, func() error, error) {
	dir, release, err := r.Places.Open(r.ctx, t, need)
	if err != nil {
		return nil, nil, err
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, nil, errors.Join(&os.PathError{Op: "open", Path: dir, Err: err}, release())
	}
	to := newFolder(fd, dir)
	return to, func() error {
		to.close()
		return release()
	}, nil
}

// begin says in the journal that the target is ours, before there is anything.
func (r *run) begin(it *Item, rec *record) error {
	if err := r.step("copying"); err != nil {
		return err
	}
	if err := r.state.set(r.ctx, it.Source, rec); err != nil {
		return err
	}
	return r.step("open")
}

// stage does the steps 3 to 5.
func (r *run) stage(it *Item, rec *record, to *folder, stage string) error {
	if taken, err := to.exists(it.Target.Name); err != nil {
		return err
	} else if taken {
		return fmt.Errorf("%w: %s", ErrExists, it.Target)
	}
	from, name, err := r.source(it)
	if err != nil {
		return err
	}
	defer from.close()
	if err := r.step("stage"); err != nil {
		return err
	}
	c := newCopier(r.ctx, r.count, it.sha != "")
	if err := c.run(from, name, to, stage); err != nil {
		return err
	}
	if it.sha != "" && c.full != it.sha {
		return fmt.Errorf("%w: it has %s", ErrWrongDigest, c.full)
	}
	if err := r.step("finish"); err != nil {
		return err
	}
	// The tree of the survey is the one that was copied, or every difference shows: in a mark,
	// in the metadata, or in the second survey.
	if rec.Digest, err = c.finish(from, name, to, stage); err != nil {
		return err
	}
	now, err := survey(r.ctx, from, name)
	if err != nil {
		return err
	}
	if now.state != it.tree.state {
		return fmt.Errorf("%w while it was copied", ErrChanged)
	}
	if it.Kind == Container {
		if err := saveSnapshotName(to, stage, name); err != nil {
			return err
		}
	}
	if err := to.syncDisk(); err != nil {
		return err
	}
	rec.State, rec.Files, rec.Bytes, rec.Phase = now.state, now.files, now.bytes, ready
	if err := r.step("ready"); err != nil {
		return err
	}
	return r.state.set(r.ctx, it.Source, rec)
}

// saveSnapshotName writes the old name of a container's folder into it, unless such a file is
// there. The time of change of the folder stays.
func saveSnapshotName(to *folder, stage, name string) error {
	st, err := to.stat(stage)
	if err != nil {
		return err
	}
	at, err := openFolder(to, stage)
	if err != nil {
		return err
	}
	defer at.close()
	fd, err := openBeneath(at.fd, snapshotFile, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return at.fail("make", snapshotFile, err)
	}
	f := os.NewFile(uintptr(fd), snapshotFile)
	_, err = f.WriteString(name)
	return errors.Join(err, f.Chmod(0o644), f.Close(), setTimes(to, stage, &st))
}

// unstage decides what stays of a copy that failed. What another run can use stays, unless it
// may be what fills the disk.
func (r *run) unstage(it *Item, to *folder, stage string, err error) error {
	if errors.Is(err, errStopped) {
		return err
	}
	decided := isDecision(err)
	if decided || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		err = errors.Join(err, to.remove(stage))
	}
	if decided {
		err = errors.Join(err, r.state.set(r.ctx, it.Source, nil))
	}
	return err
}

// rename does the steps 6 and 7.
func (r *run) rename(it *Item, to *folder, stage string) error {
	staged, err := to.exists(stage)
	if err != nil {
		return err
	}
	if !staged { // a crash came after the rename
		if there, err := to.exists(it.Target.Name); err != nil || !there {
			return errors.Join(fmt.Errorf("%s has vanished; remove its entry from the journal to copy it again", it.Target), err)
		}
		return to.sync()
	}
	if err := settle(r.ctx, to, stage, agentOf(it.Target, to), 0); err != nil {
		return err
	}
	if err := to.syncDisk(); err != nil {
		return err
	}
	if err := r.step("rename"); err != nil {
		return err
	}
	err = unix.Renameat2(to.fd, stage, to.fd, it.Target.Name, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		return errors.Join(fmt.Errorf("%w: %s", ErrExists, it.Target), to.remove(stage), r.state.set(r.ctx, it.Source, nil))
	}
	if err != nil {
		return to.fail("rename", stage, err)
	}
	if err := r.step("renamed"); err != nil {
		return err
	}
	return to.sync()
}

// destroy does the steps 9 to 13.
func (r *run) destroy(it *Item, rec *record) error {
	at, name, err := r.source(it)
	if errors.Is(err, os.ErrNotExist) { // its folder is gone, too
		return r.forget(it, rec)
	}
	if err != nil {
		return err
	}
	defer at.close()
	if rec.Phase == copied {
		if err := r.mayDestroy(it, rec, at, name); err != nil {
			return err
		}
		rec.Phase = destroying
		if err := r.state.set(r.ctx, it.Source, rec); err != nil {
			return err
		}
	}
	if err := r.step("destroy"); err != nil {
		return err
	}
	if err := destroyTree(r.ctx, at, name, r.step); err != nil {
		return err
	}
	if err := r.step("destroyed"); err != nil {
		return err
	}
	return r.forget(it, rec)
}

// forget removes the folder that held a verified file, and writes the last entry of an item.
func (r *run) forget(it *Item, rec *record) error {
	if it.Kind == Verified {
		above, name := path.Split(path.Dir(it.Source))
		if fd, err := openBeneath(r.root.fd, path.Clean(above), unix.O_RDONLY|unix.O_DIRECTORY); err == nil {
			at := newFolder(fd, above)
			_ = unix.Unlinkat(at.fd, name, unix.AT_REMOVEDIR) // not while it has other files
			at.close()
		}
	}
	rec.Phase = gone
	return r.state.set(r.ctx, it.Source, rec)
}

// mayDestroy checks that the source is what was copied, that nobody uses it, and that the copy
// is there.
func (r *run) mayDestroy(it *Item, rec *record, at *folder, name string) error {
	if by := usedBelow(r.users, it.Source); by != "" {
		return fmt.Errorf("%w by %s; its source is kept", ErrInUse, by)
	}
	now, err := survey(r.ctx, at, name)
	if errors.Is(err, os.ErrNotExist) {
		return nil // somebody else removed it
	}
	if err != nil {
		return err
	}
	if now.state != rec.State {
		return fmt.Errorf("%w since it was copied: compare it with %s, and remove the one that is wrong", ErrChanged, it.Target)
	}
	there, err := r.Places.Look(r.ctx, it.Target)
	if err == nil && !there {
		err = fmt.Errorf("%s has vanished; its source is kept", it.Target)
	}
	return err
}
