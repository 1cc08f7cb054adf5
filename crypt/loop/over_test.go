package loop

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Over finds the devices of a file by its inode, under whatever name, and no others.
func TestOver(t *testing.T) {
	f, other := backing(t, 1<<20), backing(t, 1<<20)
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	over := func() []Attached {
		t.Helper()
		var found []Attached
		if err := Over(st.Dev, st.Ino, func(a Attached) error { found = append(found, a); return nil }); err != nil {
			t.Fatal(err)
		}
		return found
	}
	if found := over(); len(found) != 0 {
		t.Fatalf("before: %+v", found)
	}
	link := filepath.Join(filepath.Dir(f.Name()), "link")
	if err := os.Link(f.Name(), link); err != nil {
		t.Fatal(err)
	}
	g, err := os.OpenFile(link, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	first, err := Attach(t.Context(), f, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	second, err := Attach(t.Context(), g, Options{})
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := Attach(t.Context(), other, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	stop := errors.New("enough")
	if err := Over(st.Dev, st.Ino, func(Attached) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("%v, want %v", err, stop)
	}
	// While it is looked at, it does not become another file's.
	if err := Over(st.Dev, st.Ino, func(a Attached) error {
		if a.Number != first.Number {
			return nil
		}
		if err := first.Close(); err != nil {
			return err
		}
		again, err := Status(a.Number)
		if err == nil && again != a {
			err = errors.New("another file's")
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	if first, err = Attach(t.Context(), f, Options{ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	numbers := map[int]bool{}
	for _, a := range over() {
		numbers[a.Number] = true
		if !a.Autoclear {
			t.Errorf("%+v", a)
		}
	}
	if len(numbers) != 2 || !numbers[first.Number] || !numbers[second.Number] {
		t.Errorf("found %v, want %d and %d", numbers, first.Number, second.Number)
	}
	if path := Path(second.Number); path != link {
		t.Errorf("path %q, want %s", path, link)
	}
	if err := errors.Join(first.Close(), second.Close()); err != nil {
		t.Fatal(err)
	}
	if a, err := Status(first.Number); !errors.Is(err, ErrNotAttached) && a.Ino == st.Ino {
		t.Errorf("after: %+v, %v", a, err)
	}
}
