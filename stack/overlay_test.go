package stack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"layervault/internal/mounts"
	"layervault/layer"
)

// lowersOf names lowers from first to before end, as a view does.
func lowersOf(first, end int) []string {
	var names []string
	for n := first; n < end; n++ {
		names = append(names, strconv.FormatInt(int64(n), 36))
	}
	return names
}

// TestOverlayMost mounts as many lower layers as overlayfs can stack.
func TestOverlayMost(t *testing.T) {
	const most = 500
	o := overlay{dir: t.TempDir(), lowers: lowersOf(0, most)}
	for n, name := range o.lowers {
		dir := filepath.Join(o.dir, "m"+name, "diff")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("file", n)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(dir, filepath.Join(o.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	at := t.TempDir()
	if err := o.mount(at); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(at)
	if err := mounts.DetachAll(at); err != nil {
		t.Error(err)
	}
	if err != nil || len(entries) != most {
		t.Errorf("%d files of %d (%v)", len(entries), most, err)
	}
}

func TestOverlayData(t *testing.T) {
	const label = "system_u:object_r:container_file_t:s0:c1,c2"
	o := overlay{dir: "/scratch/with,commas:and colons", lowers: lowersOf(1, 500), upper: "m0/diff", work: "m0/work", label: label}
	data, err := o.data()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(data, "lowerdir=1:2:3:") || !strings.Contains(data, ",upperdir=m0/diff,workdir=m0/work,") {
		t.Errorf("options %.60s", data)
	}
	if !strings.HasSuffix(data, `,context="`+label+`"`) {
		t.Errorf("options end with %s", data[len(data)-100:])
	}
	if strings.Contains(data, "scratch") {
		t.Error("the directory's name is in the options")
	}
	o.lowers = lowersOf(0, 2000)
	if _, err := o.data(); !errors.Is(err, layer.ErrTooDeep) {
		t.Errorf("2000 layers fit one page: %v", err)
	}
}
