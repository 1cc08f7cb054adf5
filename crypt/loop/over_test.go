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
		found, err := Over(st.Dev, st.Ino)
		if err != nil {
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
