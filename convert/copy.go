package convert

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

var (
	// ErrChanged: a source was written to while it was copied, or since.
	ErrChanged = errors.New("source changed")
	// ErrDiffers: what was read back from the destination is not what was read from the source.
	ErrDiffers = errors.New("copy differs from its source")
)

// Limits of a batch: files that are copied, written to the disk with one call, read back from
// the disk, compared, and marked.
const (
	// batchFiles bounds the open folders, two for each file, and what a crash throws away.
	batchFiles = 256
	// batchBytes bounds what waits in memory for the disk. One file may be larger.
	batchBytes = 128 << 20
	// maxWorkers bounds memory: each has up to five chunks of a MiB.
	maxWorkers = 4
)

// copier copies one item to a place where it is staged.
type copier struct {
	ctx   context.Context
	count *counter
	plain bool // the digest of the one file is wanted, too

	group   *errgroup.Group
	mu      sync.Mutex
	batch   []*job
	bytes   int64
	links   map[uint64]bool // inodes with several names of which one was copied
	full    string          // SHA-256 of the one file, if plain
	noClone atomic.Bool     // the two file systems share no blocks
	// unmarked are marks that the file system could not keep, by path.
	unmarked map[string]mark
	buffers  sync.Pool
}

// job is a regular file to copy.
type job struct {
	from, to     *folder
	name, toName string
	st           unix.Stat_t
	sum          string
}

func (j *job) close() { j.from.close(); j.to.close() }

func newCopier(ctx context.Context, count *counter, plain bool) *copier {
	c := &copier{ctx: ctx, count: count, plain: plain, links: map[uint64]bool{}, unmarked: map[string]mark{}}
	c.buffers.New = func() any { b := make([]byte, chunk); return &b }
	c.begin()
	return c
}

func (c *copier) begin() {
	c.group = new(errgroup.Group)
	c.group.SetLimit(min(maxWorkers, max(2, runtime.NumCPU())))
}

// run copies from/name to to/toName, which may be there in part. Hard links and the metadata of
// folders are left to finish.
func (c *copier) run(from *folder, name string, to *folder, toName string) error {
	err := c.entry(from, name, to, toName, 0)
	if err == nil {
		err = c.flush()
	}
	// After an error, what was begun comes to its end, and its folders are closed.
	if waited := c.group.Wait(); err == nil {
		err = waited
	}
	for _, j := range c.batch {
		j.close()
	}
	c.batch = nil
	return err
}

func (c *copier) entry(from *folder, name string, to *folder, toName string, depth int) error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	st, err := from.stat(name)
	if err != nil {
		return changedIfGone(err)
	}
	switch kindOf(&st) {
	case unix.S_IFDIR:
		return c.folder(from, name, to, toName, depth)
	case unix.S_IFREG:
		return c.file(from, name, &st, to, toName)
	}
	return c.special(from, name, &st, to, toName)
}

// changedIfGone: a name that was listed and is not there any more.
func changedIfGone(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrChanged, err)
	}
	return err
}

func (c *copier) folder(from *folder, name string, to *folder, toName string, depth int) error {
	if depth >= maxDepth {
		return from.fail("copy", name, ErrTooDeep)
	}
	have, err := to.stat(toName)
	if err == nil && kindOf(&have) != unix.S_IFDIR {
		err = to.unlink(toName)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := unix.Mkdirat(to.fd, toName, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return to.fail("make", toName, err)
	}
	src, err := openFolder(from, name)
	if err != nil {
		return changedIfGone(err)
	}
	defer src.close()
	dst, err := openFolder(to, toName)
	if err != nil {
		return err
	}
	defer dst.close()
	c.count.file(1)
	names, err := src.names()
	if err != nil {
		return err
	}
	if err := removeOthers(dst, names); err != nil {
		return err
	}
	for _, n := range names {
		if err := c.entry(src, n, dst, n, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// removeOthers removes what the source does not have (any more) from a copy that an earlier run
// left. names are sorted.
func removeOthers(dst *folder, names []string) error {
	have, err := dst.names()
	if err != nil || len(have) == 0 {
		return err
	}
	i := 0
	for _, n := range have {
		for i < len(names) && names[i] < n {
			i++
		}
		if i == len(names) || names[i] != n {
			if err := dst.remove(n); err != nil {
				return err
			}
		}
	}
	return nil
}

// special copies what is neither a folder nor a regular file, with its metadata.
func (c *copier) special(from *folder, name string, st *unix.Stat_t, to *folder, toName string) error {
	if err := to.remove(toName); err != nil {
		return err
	}
	if kindOf(st) == unix.S_IFLNK {
		buf := make([]byte, unix.PathMax+1)
		n, err := unix.Readlinkat(from.fd, name, buf)
		if err != nil {
			return from.fail("read the link", name, err)
		}
		if err := unix.Symlinkat(string(buf[:n]), to.fd, toName); err != nil {
			return to.fail("make the link", toName, err)
		}
	} else if err := unix.Mknodat(to.fd, toName, kindOf(st)|0o600, int(st.Rdev)); err != nil {
		return to.fail("make", toName, err)
	}
	c.count.file(1)
	return copyMeta(from, name, st, to, toName)
}

// file begins the copy of a regular file, unless an earlier run finished it, or another of its
// names is copied.
func (c *copier) file(from *folder, name string, st *unix.Stat_t, to *folder, toName string) error {
	if st.Nlink > 1 {
		if c.links[st.Ino] {
			c.count.file(1)
			return nil // finish makes the link
		}
		c.links[st.Ino] = true
	}
	if m, ok := to.getMark(toName); ok && m.of(st) {
		have, err := to.stat(toName)
		if err == nil && kindOf(&have) == unix.S_IFREG && have.Size == st.Size && !c.plain {
			c.count.resumed(st.Blocks * 512)
			return nil
		}
	}
	if err := to.remove(toName); err != nil {
		return err
	}
	j := &job{from: from.share(), to: to.share(), name: name, toName: toName, st: *st}
	c.batch = append(c.batch, j)
	c.bytes += st.Blocks * 512
	c.group.Go(func() error { return c.copyFile(j) })
	if len(c.batch) >= batchFiles || c.bytes >= batchBytes {
		return c.flush()
	}
	return nil
}

func (c *copier) copyFile(j *job) (err error) {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	src, err := j.from.open(j.name)
	if err != nil {
		return changedIfGone(err)
	}
	defer func() { _ = src.Close() }()
	if err := c.unchanged(j, src); err != nil {
		return err
	}
	fd, err := openBeneath(j.to.fd, j.toName, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return j.to.fail("make", j.toName, err)
	}
	dst := os.NewFile(uintptr(fd), join(j.to.path, j.toName))
	defer func() { err = errors.Join(err, dst.Close()) }()
	_ = unix.Fadvise(int(src.Fd()), 0, 0, unix.FADV_SEQUENTIAL) // a hint
	sum, full, err := copyContent(c.ctx, src, dst, j.st.Size, c.plain, c.clone(src, dst), c.count.bytes)
	if err != nil {
		return err
	}
	j.sum = sum
	if c.plain {
		c.full = full
	}
	return c.unchanged(j, src)
}

// clone lets the copy share the source's blocks, where a file system can: no time, and no space.
// Else the bytes are written, because they are read for the digest anyway; copy_file_range
// would read them once more.
func (c *copier) clone(src, dst *os.File) bool {
	if c.noClone.Load() {
		return false
	}
	if err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())); err != nil {
		c.noClone.Store(true)
		return false
	}
	return true
}

// unchanged compares an open source with what it was when its folder was read.
func (c *copier) unchanged(j *job, src *os.File) error {
	var now unix.Stat_t
	if err := unix.Fstat(int(src.Fd()), &now); err != nil {
		return j.from.fail("stat", j.name, err)
	}
	if kindOf(&now) != unix.S_IFREG || !markOf(&j.st, "").of(&now) {
		return j.from.fail("copy", j.name, ErrChanged)
	}
	return nil
}

// flush makes a batch durable, compares it, and marks it. A mark reaches the disk after what it
// vouches for.
func (c *copier) flush() error {
	err := c.group.Wait()
	batch := c.batch
	c.batch, c.bytes = nil, 0
	defer c.begin()
	defer func() {
		for _, j := range batch {
			j.close()
		}
	}()
	if err != nil || len(batch) == 0 {
		return err
	}
	if err := batch[0].to.syncDisk(); err != nil {
		return err
	}
	c.begin()
	for _, j := range batch {
		c.group.Go(func() error { return c.confirm(j) })
	}
	return c.group.Wait()
}

// confirm reads a copy back from the disk, gives it its metadata, and marks it.
func (c *copier) confirm(j *job) error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	f, err := j.to.open(j.toName)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	// Else the comparison would be with the memory that was written from.
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	buf := c.buffers.Get().(*[]byte)
	defer c.buffers.Put(buf)
	sum, err := hashFile(c.ctx, f, j.st.Size, *buf)
	if err != nil {
		return err
	}
	if info, err := f.Stat(); err != nil {
		return err
	} else if sum != j.sum || info.Size() != j.st.Size {
		return errors.Join(j.to.fail("compare", j.toName, ErrDiffers), j.to.unlink(j.toName))
	}
	if err := copyMeta(j.from, j.name, &j.st, j.to, j.toName); err != nil {
		return changedIfGone(err)
	}
	c.count.file(1)
	m := markOf(&j.st, j.sum)
	kept, err := j.to.setMark(j.toName, m)
	if err == nil && !kept {
		c.mu.Lock()
		c.unmarked[join(j.to.path, j.toName)] = m
		c.mu.Unlock()
	}
	return err
}

// markFor is the mark of a copy.
func (c *copier) markFor(to *folder, name string) (mark, bool) {
	if m, ok := to.getMark(name); ok {
		return m, true
	}
	m, ok := c.unmarked[join(to.path, name)]
	return m, ok
}
