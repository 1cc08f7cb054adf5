package graph_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/moby/go-archive"

	"layervault/driver"
)

// recorder is a driver that notes the last call. Some ids make it fail: bad
// (every call), panic (Get), and early, none, late and close (Diff).
type recorder struct {
	mu      sync.Mutex
	call    string
	applied chan error // gets what reading ApplyDiff's tar came to, if not nil
}

func (d *recorder) note(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.call = fmt.Sprintf(format, args...)
}

func (d *recorder) last() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.call
}

func (d *recorder) reset() { d.note("") }

func fail(id string) error {
	if id == "bad" {
		return fmt.Errorf("layer %q", id)
	}
	return nil
}

func (d *recorder) Init(_ context.Context, o driver.Options) error {
	d.note("Init %+v", o)
	if o.Home == "/locked" {
		return errors.New("vault is locked")
	}
	return nil
}

func (d *recorder) Create(_ context.Context, id, parent string, o *driver.CreateOpts) error {
	d.note("Create %s %s %+v", id, parent, *o)
	return fail(id)
}

func (d *recorder) CreateReadWrite(_ context.Context, id, parent string, o *driver.CreateOpts) error {
	d.note("CreateReadWrite %s %s %+v", id, parent, *o)
	return fail(id)
}

func (d *recorder) Remove(_ context.Context, id string) error {
	d.note("Remove %s", id)
	return fail(id)
}

func (d *recorder) Get(_ context.Context, id, label string) (string, error) {
	d.note("Get %s %s", id, label)
	if id == "panic" {
		panic("boom")
	}
	return "/h/" + id, fail(id)
}

func (d *recorder) Put(_ context.Context, id string) error {
	d.note("Put %s", id)
	return fail(id)
}

func (d *recorder) Exists(_ context.Context, id string) bool {
	d.note("Exists %s", id)
	return id != "bad"
}

func (d *recorder) Status(context.Context) [][2]string {
	d.note("Status")
	return [][2]string{{"Vault", "open"}}
}

func (d *recorder) GetMetadata(_ context.Context, id string) (map[string]string, error) {
	d.note("GetMetadata %s", id)
	return map[string]string{"UUID": "u"}, fail(id)
}

func (d *recorder) Cleanup(context.Context) error {
	d.note("Cleanup")
	return nil
}

// tar is a reader that fails with readErr after its bytes, and with closeErr when
// it is closed.
type tar struct {
	io.Reader
	readErr, closeErr error
}

func (t *tar) Read(p []byte) (int, error) {
	n, err := t.Reader.Read(p)
	if errors.Is(err, io.EOF) && t.readErr != nil {
		err = t.readErr
	}
	return n, err
}

func (t *tar) Close() error { return t.closeErr }

func (d *recorder) Diff(_ context.Context, id, parent string) (io.ReadCloser, error) {
	d.note("Diff %s %s", id, parent)
	large := bytes.NewReader(make([]byte, 1<<20))
	fault := errors.New("read fault")
	switch id {
	case "early":
		return &tar{Reader: strings.NewReader(""), readErr: fault}, nil
	case "none":
		return &tar{Reader: strings.NewReader("")}, nil
	case "late":
		return &tar{Reader: large, readErr: fault}, nil
	case "close":
		return &tar{Reader: large, closeErr: fault}, nil
	}
	return &tar{Reader: strings.NewReader("tar of " + id)}, fail(id)
}

func (d *recorder) Changes(_ context.Context, id, parent string) ([]archive.Change, error) {
	d.note("Changes %s %s", id, parent)
	return []archive.Change{{Path: "/m", Kind: archive.ChangeModify}, {Path: "/d", Kind: archive.ChangeDelete}}, fail(id)
}

func (d *recorder) ApplyDiff(_ context.Context, id, parent string, diff io.Reader) (int64, error) {
	d.note("ApplyDiff %s %s", id, parent)
	if err := fail(id); err != nil {
		return 0, err
	}
	n, err := io.Copy(io.Discard, diff)
	if d.applied != nil {
		d.applied <- err
	}
	return n, err
}

func (d *recorder) DiffSize(_ context.Context, id, parent string) (int64, error) {
	d.note("DiffSize %s %s", id, parent)
	return 42, fail(id)
}
