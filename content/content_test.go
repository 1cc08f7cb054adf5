package content_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"

	"layervault/area"
	"layervault/content"
	"layervault/persist"
)

// fixture has a layout whose areas are file systems in memory, with the owners and modes of
// areas, and a file of content. The steps of this process run as its user, so that is the user of
// the areas it works with; what other users may do the kernel is asked with processes of theirs.
type fixture struct {
	*testing.T
	cfg  content.Config
	data []byte
	d    content.Digest
}

func newFixture(t *testing.T, n int) *fixture {
	t.Helper()
	dir, err := os.MkdirTemp("", "content")
	if err != nil {
		t.Fatal(err)
	}
	l := persist.Layout{Root: dir}
	f := &fixture{T: t, cfg: content.Config{Layout: l, Floor: 1}, data: noise(n)}
	f.cfg.Checkpoint = nil
	f.d = digest(f.data)
	f.must(os.Mkdir(l.Tier(persist.Vault), 0o711))
	f.must(os.Chmod(dir, 0o711))
	for _, a := range persist.Areas {
		f.must(os.Mkdir(l.Area(a), 0))
		f.must(unix.Mount("areas", l.Area(a), "tmpfs", 0, fmt.Sprintf("mode=%o,size=64m", persist.AreaMode(a))))
	}
	t.Cleanup(func() {
		for _, a := range persist.Areas {
			_ = unix.Unmount(l.Area(a), unix.MNT_DETACH)
		}
		f.must(os.RemoveAll(dir))
	})
	return f
}

func noise(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(data) // never fails
	return data
}

func digest(data []byte) content.Digest {
	sum := sha256.Sum256(data)
	return content.Digest(hex.EncodeToString(sum[:]))
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) is(err, want error) {
	f.Helper()
	if !errors.Is(err, want) {
		f.Errorf("error %v, want %v", err, want)
	}
}

func (f *fixture) store() *content.Store { return content.New(f.cfg) }

// holds checks which files an area has.
func (f *fixture) holds(a persist.Area, want ...string) {
	f.Helper()
	var have []string
	f.must(filepath.WalkDir(f.cfg.Layout.Area(a), func(at string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			name, _ := filepath.Rel(f.cfg.Layout.Area(a), at)
			have = append(have, name)
		}
		return err
	}))
	if strings.Join(have, " ") != strings.Join(want, " ") {
		f.Errorf("%s has %q, want %q", a, have, want)
	}
}

func (f *fixture) receive(r io.Reader, known content.Announced) (content.Result, error) {
	f.Helper()
	return f.store().Receive(f.Context(), f.d, r, known)
}

// forward does a step with what the one before left, and drops that.
func (f *fixture) forward(from persist.Area, do func(context.Context, content.Digest, *os.File) (content.Result, error)) error {
	f.Helper()
	source, err := f.store().Source(from, f.d)
	f.must(err)
	defer source.Close()
	_, err = do(f.Context(), f.d, source)
	if err == nil || errors.Is(err, content.ErrDigest) {
		f.must(f.store().Drop(from, f.d))
	}
	return err
}

func TestParseDigest(t *testing.T) {
	const ok = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for text, good := range map[string]bool{
		ok: true, "sha256:" + ok: true, strings.ToUpper(ok): false, ok[1:]: false, ok + "0": false, "": false, "sha512:" + ok: false,
		"sha256:sha256:" + ok: false, "../" + ok[3:]: false, ok[:63] + "/": false, ok[:63] + "\x00": false,
	} {
		if d, err := content.ParseDigest(text); (err == nil) != good || good && string(d) != ok {
			t.Errorf("%q: %q, %v", text, d, err)
		}
	}
}

// Content goes its whole way, and is in one place at the end.
func TestWay(t *testing.T) {
	f := newFixture(t, 3<<20+5)
	var last int64
	f.cfg.Progress = func(done, _ int64) { last = done }
	r, err := f.receive(bytes.NewReader(f.data), content.Announced{Size: int64(len(f.data))})
	f.must(err)
	if r.Bytes != int64(len(f.data)) || last != r.Bytes || r.Resumed != 0 {
		t.Errorf("%+v, progress up to %d", r, last)
	}
	if r, err = f.receive(strings.NewReader("not read"), content.Announced{}); err != nil || !r.Already {
		t.Errorf("again: %+v, %v", r, err)
	}
	f.holds(persist.Downloader, string(f.d))
	f.must(f.forward(persist.Downloader, f.store().Verify))
	f.holds(persist.Downloader)
	f.holds(persist.Verifier, "verified/"+string(f.d))
	f.must(f.forward(persist.Verifier, f.store().Keep))
	f.holds(persist.Verifier)
	blob := "blobs/sha256/" + string(f.d)
	f.holds(persist.Case, blob)
	at := filepath.Join(f.cfg.Layout.Area(persist.Case), blob)
	info, err := os.Stat(at)
	if f.must(err); info.Mode() != 0o444 {
		t.Errorf("blob has mode %v", info.Mode())
	}
	if data, err := os.ReadFile(at); !bytes.Equal(data, f.data) {
		t.Errorf("blob differs, %v", err)
	}
	all, err := f.store().List(t.Context())
	if f.must(err); len(all) != 1 || all[0].State != content.StateStored || all[0].Digest != f.d {
		t.Errorf("%+v", all)
	}
	_, err = f.store().Source(persist.Verifier, f.d)
	f.is(err, content.ErrNotFound)
	if has, err := f.store().Stored(f.d); !has || err != nil {
		t.Errorf("stored: %v, %v", has, err)
	}
}

// Content with another digest is refused and removed, by each step for itself.
func TestWrongDigest(t *testing.T) {
	f := newFixture(t, 2<<20)
	bad := bytes.Clone(f.data)
	bad[1<<20]++
	_, err := f.receive(bytes.NewReader(bad), content.Announced{})
	f.is(err, content.ErrDigest)
	f.holds(persist.Downloader)
	_, err = f.receive(bytes.NewReader(append(f.data, 0)), content.Announced{Size: int64(len(f.data))})
	f.is(err, content.ErrSize)
	f.holds(persist.Downloader)

	// An agent that lies.
	f.must(os.WriteFile(filepath.Join(f.cfg.Layout.Area(persist.Downloader), string(f.d)), bad, 0o600))
	f.is(f.forward(persist.Downloader, f.store().Verify), content.ErrDigest)
	f.holds(persist.Downloader)
	f.holds(persist.Verifier)
	f.must(os.WriteFile(filepath.Join(f.cfg.Layout.Area(persist.Verifier), "verified", string(f.d)), bad, 0o600))
	f.is(f.forward(persist.Verifier, f.store().Keep), content.ErrDigest)
	f.holds(persist.Verifier)
	f.holds(persist.Case)

	// What is stored already is not believed, and not replaced.
	f.must(os.WriteFile(filepath.Join(f.cfg.Layout.Area(persist.Case), "blobs/sha256", string(f.d)), bad, 0o444))
	f.must(os.WriteFile(filepath.Join(f.cfg.Layout.Area(persist.Verifier), "verified", string(f.d)), f.data, 0o600))
	f.is(f.forward(persist.Verifier, f.store().Keep), content.ErrDamaged)
	f.holds(persist.Verifier, "verified/"+string(f.d))
}

// A download that breaks off goes on where it was, in each of the ways that it can.
func TestResume(t *testing.T) {
	f := newFixture(t, 5<<20+100)
	size := int64(len(f.data))
	const cut = 3<<20 + 17
	part := string(f.d) + ".part"
	start := func() {
		t.Helper()
		_ = os.Remove(filepath.Join(f.cfg.Layout.Area(persist.Downloader), string(f.d)))
		_, err := f.receive(io.MultiReader(bytes.NewReader(f.data[:cut]), iotest.ErrReader(syscall.ECONNRESET)), content.Announced{})
		f.is(err, content.ErrInterrupted)
		f.is(err, syscall.ECONNRESET)
		f.holds(persist.Downloader, part)
	}
	start()
	all, err := f.store().List(t.Context())
	if f.must(err); len(all) != 1 || all[0].State != content.StateReceiving || all[0].Bytes != cut {
		t.Errorf("%+v", all)
	}
	for _, bad := range []int64{-1, cut + 1} {
		_, err := f.receive(bytes.NewReader(f.data), content.Announced{Offset: bad})
		f.is(err, content.ErrOffset)
	}
	// From a place.
	for _, at := range []int64{cut, cut - 5000} {
		r, err := f.receive(bytes.NewReader(f.data[at:]), content.Announced{Offset: at, Size: size})
		f.must(err)
		if r.Resumed != at || r.Bytes != size {
			t.Errorf("%+v", r)
		}
		f.holds(persist.Downloader, string(f.d))
		start()
	}
	// The whole again: what is there is not written.
	r, err := f.receive(iotest.OneByteReader(bytes.NewReader(f.data[:0])), content.Announced{Size: size})
	f.is(err, content.ErrInterrupted)
	if f.holds(persist.Downloader, part); r.Bytes > 0 {
		t.Errorf("%+v", r)
	}
	r, err = f.receive(iotest.HalfReader(bytes.NewReader(f.data)), content.Announced{Size: size})
	f.must(err)
	if r.Resumed != cut || r.Bytes != size {
		t.Errorf("%+v", r)
	}
	// Bytes that a power cut left wrong.
	start()
	at := filepath.Join(f.cfg.Layout.Area(persist.Downloader), part)
	file, err := os.OpenFile(at, os.O_WRONLY, 0)
	f.must(err)
	_, err = file.WriteAt(make([]byte, 4096), cut-4096)
	f.must(errors.Join(err, file.Close()))
	_, err = f.receive(bytes.NewReader(f.data), content.Announced{})
	f.must(err)
	start()
	_, err = f.receive(bytes.NewReader(f.data[:100]), content.Announced{}) // shorter, of unknown size
	f.is(err, content.ErrDigest)
	f.holds(persist.Downloader)
}

// After a crash at each step the same call finishes.
func TestCrashes(t *testing.T) {
	f := newFixture(t, 1<<20)
	crash := errors.New("crash")
	once := func(at string) {
		f.cfg.Checkpoint = func(step string) error {
			if step != at {
				return nil
			}
			f.cfg.Checkpoint = nil
			return crash
		}
	}
	for _, at := range []string{"synced", "renamed"} {
		once(at)
		_, err := f.receive(bytes.NewReader(f.data), content.Announced{})
		f.is(err, crash)
		f.cfg.Checkpoint = nil
		_, err = f.receive(bytes.NewReader(f.data), content.Announced{})
		f.must(err)
		f.holds(persist.Downloader, string(f.d))
		f.must(f.store().Drop(persist.Downloader, f.d))
	}
	for _, at := range []string{"copied", "synced", "renamed"} {
		_, err := f.receive(bytes.NewReader(f.data), content.Announced{})
		f.must(err)
		once(at)
		f.is(f.forward(persist.Downloader, f.store().Verify), crash)
		f.cfg.Checkpoint = nil
		f.must(f.forward(persist.Downloader, f.store().Verify))
		f.holds(persist.Downloader)
		f.holds(persist.Verifier, "verified/"+string(f.d))
		once(at)
		f.is(f.forward(persist.Verifier, f.store().Keep), crash)
		f.cfg.Checkpoint = nil
		f.must(f.forward(persist.Verifier, f.store().Keep))
		f.holds(persist.Verifier)
		f.holds(persist.Case, "blobs/sha256/"+string(f.d))
		f.must(os.Remove(filepath.Join(f.cfg.Layout.Area(persist.Case), "blobs/sha256", string(f.d))))
	}
}

// A step of another user is refused before anything is opened.
func TestUsers(t *testing.T) {
	f := newFixture(t, 1<<10)
	f.cfg.Agents = persist.DefaultAgents()
	_, err := f.receive(bytes.NewReader(f.data), content.Announced{})
	f.is(err, content.ErrUser)
	_, err = f.store().Verify(t.Context(), f.d, nil)
	f.is(err, content.ErrUser)
	f.is(f.store().Drop(persist.Downloader, f.d), content.ErrUser)
	f.cfg.Agents.Case = persist.Owner{UID: 1}
	_, err = f.store().Keep(t.Context(), f.d, nil)
	f.is(err, content.ErrUser)
}

// A closed area is refused: the directory below is on the unencrypted disk.
func TestClosed(t *testing.T) {
	f := newFixture(t, 1<<10)
	f.must(unix.Unmount(f.cfg.Layout.Area(persist.Downloader), 0))
	_, err := f.receive(bytes.NewReader(f.data), content.Announced{})
	f.is(err, area.ErrClosed)
	_, err = f.store().List(t.Context())
	f.is(err, area.ErrClosed)
	f.holds(persist.Downloader)
}

// A link in an area's place, to what is mounted elsewhere, is not followed.
func TestLinkInPlace(t *testing.T) {
	f := newFixture(t, 1<<10)
	at := f.cfg.Layout.Area(persist.Downloader)
	f.must(unix.Unmount(at, 0))
	f.must(os.Remove(at))
	f.must(os.Symlink(f.cfg.Layout.Area(persist.Case), at))
	_, err := f.receive(bytes.NewReader(f.data), content.Announced{})
	f.is(err, area.ErrInTheWay)
	f.holds(persist.Case)
}

// Below the floor nothing is written, and what has come is kept.
func TestFloor(t *testing.T) {
	f := newFixture(t, 4<<20)
	room, err := area.RoomOf(f.cfg.Layout, 0)
	f.must(err)
	f.cfg.Floor = room.Total
	_, err = f.receive(bytes.NewReader(f.data), content.Announced{})
	f.is(err, area.ErrFloor)
	f.cfg.Floor = 1
	_, err = f.receive(bytes.NewReader(f.data), content.Announced{})
	f.must(err)
	// A full area is the same to the caller.
	big := noise(65 << 20)
	_, err = f.store().Receive(t.Context(), digest(big), bytes.NewReader(big), content.Announced{})
	f.is(err, area.ErrFloor)
	f.is(err, syscall.ENOSPC)
}

// Two processes at one download: the second is refused.
func TestBusy(t *testing.T) {
	f := newFixture(t, 1<<20)
	inside := &callback{Reader: bytes.NewReader(f.data), call: func() {
		_, err := f.receive(bytes.NewReader(f.data), content.Announced{})
		f.is(err, content.ErrBusy)
		done, err := f.store().GC(t.Context(), content.Policy{})
		if f.must(err); len(done) != 1 || done[0].Error == "" {
			t.Errorf("gc removed what is being received: %+v", done)
		}
	}}
	_, err := f.receive(inside, content.Announced{})
	f.must(err)
}

type callback struct {
	io.Reader
	call func()
}

func (c *callback) Read(p []byte) (int, error) {
	if c.call != nil {
		c.call()
		c.call = nil
	}
	return c.Reader.Read(p)
}

// What is no file is not opened as content.
func TestNotFiles(t *testing.T) {
	f := newFixture(t, 1<<10)
	at := filepath.Join(f.cfg.Layout.Area(persist.Downloader), string(f.d))
	f.must(unix.Mkfifo(at, 0o600))
	_, err := f.store().Source(persist.Downloader, f.d)
	f.is(err, content.ErrNotFile)
	f.must(os.Remove(at))
	f.must(os.Symlink("/etc/passwd", at))
	if _, err := f.store().Source(persist.Downloader, f.d); err == nil {
		t.Error("a link out of the area was followed")
	}
	f.must(os.Rename(at, at+".part"))
	if _, err := f.receive(bytes.NewReader(f.data), content.Announced{}); err == nil {
		t.Error("a link out of the area was written to")
	}
}

// gc removes what is old, not kept, and not in the store, unless it is told to.
func TestGC(t *testing.T) {
	f := newFixture(t, 1<<10)
	other := digest([]byte("other"))
	blobs := filepath.Join(f.cfg.Layout.Area(persist.Case), "blobs/sha256")
	f.must(os.MkdirAll(blobs, 0o755))
	f.must(os.WriteFile(filepath.Join(blobs, string(f.d)), f.data, 0o444))
	f.must(os.WriteFile(filepath.Join(blobs, string(other)), []byte("other"), 0o444))
	_, err := f.receive(io.MultiReader(bytes.NewReader(f.data), iotest.ErrReader(io.ErrUnexpectedEOF)), content.Announced{})
	f.is(err, content.ErrInterrupted)
	f.must(os.WriteFile(filepath.Join(f.cfg.Layout.Area(persist.Downloader), "note"), nil, 0o600))
	gc := func(p content.Policy) int {
		t.Helper()
		done, err := f.store().GC(t.Context(), p)
		f.must(err)
		return len(done)
	}
	if n := gc(content.Policy{Older: 1e12}); n != 0 {
		t.Errorf("%d files were too old", n)
	}
	if n := gc(content.Policy{Stored: true, Keep: []content.Digest{f.d}, DryRun: true}); n != 1 {
		t.Errorf("%d files in a dry run", n)
	}
	f.holds(persist.Case, "blobs/sha256/"+min(string(f.d), string(other)), "blobs/sha256/"+max(string(f.d), string(other)))
	if n := gc(content.Policy{}); n != 1 {
		t.Errorf("%d unfinished files", n)
	}
	f.holds(persist.Downloader, "note")
	if n := gc(content.Policy{Stored: true, Keep: []content.Digest{f.d}}); n != 1 {
		t.Errorf("%d stored files", n)
	}
	f.holds(persist.Case, "blobs/sha256/"+string(f.d))
}
