package driver

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"layervault/internal/mounts"
	"layervault/layer"
)

// TestOverlayMost mounts as many lower layers as overlayfs can stack.
func TestOverlayMost(t *testing.T) {
	const most = 500
	v := &layer.View{Dir: t.TempDir()}
	for n := range most {
		dir := filepath.Join(v.Dir, "m"+v.Name(n), "diff")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("file", n)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(dir, filepath.Join(v.Dir, v.Name(n))); err != nil {
			t.Fatal(err)
		}
	}
	at := t.TempDir()
	if err := (overlay{view: v, images: most}).mount(at); err != nil {
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
	v := &layer.View{Dir: "/scratch/with,commas:and colons"}
	const label = "system_u:object_r:container_file_t:s0:c1,c2"
	data, err := overlay{view: v, images: 500, upper: true, label: label}.data()
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
	if _, err := (overlay{view: v, images: 2000}).data(); err == nil {
		t.Error("2000 layers fit one page")
	}
}
