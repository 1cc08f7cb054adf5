package ext4

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Templates makes new file systems from one that mke2fs made before: of an empty file
// system of 64 GiB 0.6 MiB are written, in a dozen places, and but for the UUID they are
// the same each time. So mke2fs runs once for each size, number of inodes and set of directories, on a
// sparse file, and what it wrote is then written to each device: a quarter less time for
// a new image in the emulated guest.
//
// The zero value is ready. It may be used by many goroutines.
type Templates struct {
	mu   sync.Mutex
	made map[string]*template
}

// maxTemplates bounds the memory: each takes up to 1 MiB for 64 GiB of file system.
const maxTemplates = 8

// maxTemplateData is the most a template may hold, in bytes. Beyond it (a file system of
// several TiB) mke2fs runs each time.
const maxTemplateData = 4 << 20

// template is what mke2fs wrote, in pieces.
type template struct {
	once   sync.Once
	err    error
	pieces []templatePiece
	group  int64 // bytes of one group of blocks
}

type templatePiece struct {
	at   int64
	data []byte
}

var errTemplateTooBig = errors.New("too much data for a template")

// Mkfs does what the function Mkfs does. device must be new: what it holds is not
// asked. With o.UUID empty each file system has a random one.
func (t *Templates) Mkfs(ctx context.Context, device string, o MkfsOptions) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("%s: %w", device, err)
	}
	if o.UUID != "" { // a caller with a fixed UUID is not in a hurry
		return Mkfs(ctx, device, o)
	}
	m := t.of(size, o)
	m.once.Do(func() { m.err = m.make(context.WithoutCancel(ctx), size, o) })
	if errors.Is(m.err, errTemplateTooBig) {
		return Mkfs(ctx, device, o)
	}
	if m.err != nil {
		t.forget(m)
		return m.err
	}
	return m.write(f, o.Label)
}

// of finds the template for a size and directories, or begins one.
func (t *Templates) of(size int64, o MkfsOptions) *template {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := fmt.Sprint(size, o.Inodes, o.Dirs)
	m := t.made[key]
	if m == nil {
		if t.made == nil || len(t.made) >= maxTemplates {
			t.made = map[string]*template{}
		}
		m = &template{}
		t.made[key] = m
	}
	return m
}

// forget lets a template that could not be made be tried again.
func (t *Templates) forget(m *template) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, known := range t.made {
		if known == m {
			delete(t.made, key)
		}
	}
}

// make runs mke2fs on a sparse file and remembers every block that is not a hole. Holes
// are what mke2fs did not write, or wrote as zeros where a file system that says
// "not initialised" needs none: TestTemplate puts garbage there.
func (m *template) make(ctx context.Context, size int64, o MkfsOptions) (err error) {
	f, err := os.CreateTemp("", "layervault-template-")
	if err != nil {
		return err
	}
	defer func() {
		_ = f.Close()
		err = errors.Join(err, os.Remove(f.Name()))
	}()
	if err := f.Truncate(size); err != nil {
		return err
	}
	o.Label = ""
	if err := Mkfs(ctx, f.Name(), o); err != nil {
		return err
	}
	super, err := ReadSuper(f)
	if err != nil {
		return err
	}
	m.group = super.Group
	total := int64(0)
	for at := int64(0); ; {
		begin, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // no data behind at
		}
		if err != nil {
			return err
		}
		if at, err = unix.Seek(int(f.Fd()), begin, unix.SEEK_HOLE); err != nil {
			return err
		}
		if total += at - begin; total > maxTemplateData {
			m.pieces = nil
			return errTemplateTooBig
		}
		p := templatePiece{at: begin, data: make([]byte, at-begin)}
		if _, err := f.ReadAt(p.data, begin); err != nil {
			return err
		}
		m.pieces = append(m.pieces, p)
	}
}

// write puts the template on a device, with a UUID of its own in every superblock.
func (m *template) write(f *os.File, label string) error {
	var id, seed [16]byte
	_, _ = rand.Read(id[:]) // never fails
	_, _ = rand.Read(seed[:])
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80 // RFC 9562, version 4
	for _, p := range m.pieces {
		data := slices.Clone(p.data)
		for at := 0; at < len(data); at += BlockSize {
			switch offset := p.at + int64(at); {
			case offset == 0:
				patchSuper(data[superOffset:superOffset+superSize], id, seed, label)
			case offset%m.group == 0 && isSuper(data[at:]): // a backup, first in its group
				patchSuper(data[at:at+superSize], id, seed, label)
			}
		}
		if _, err := f.WriteAt(data, p.at); err != nil {
			return fmt.Errorf("write file system: %w", err)
		}
	}
	return nil
}

func isSuper(b []byte) bool { return binary.LittleEndian.Uint16(b[sbMagic:]) == magic }

// patchSuper changes what is to differ between file systems. Checksums elsewhere do not
// depend on the UUID but on a seed of their own (metadata_csum_seed).
func patchSuper(sb []byte, id, seed [16]byte, label string) {
	copy(sb[sbUUID:], id[:])
	copy(sb[sbHashSeed:], seed[:])
	clear(sb[sbLabel : sbLabel+sbLabelSize])
	copy(sb[sbLabel:sbLabel+sbLabelSize], label)
	sum := ^crc32.Checksum(sb[:sbChecksum], crc32.MakeTable(crc32.Castagnoli))
	binary.LittleEndian.PutUint32(sb[sbChecksum:], sum)
}
