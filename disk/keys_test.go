package disk

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"layervault/crypt"
)

// vendor makes programs that stand in for the vendors'.
func vendor(t *testing.T) (Tools, string) {
	t.Helper()
	dir := t.TempDir()
	for name, script := range map[string]string{
		// create leaves a tagged key and its black blob; import makes the key of the blob again.
		"caam-keygen": `case $1 in
create) head -c 36 /dev/zero | tr '\0' k >"$CAAM/$2"; tr k b <"$CAAM/$2" >"$CAAM/$2.bb" ;;
import) tr b k <"$CAAM/$2" >"$CAAM/$3" ;;
esac`,
		"dcp":  `case $1 in encrypt) base64 -w 0 >"$2" ;; decrypt) base64 -d "$2" ;; esac`,
		"fail": `echo "no such hardware" >&2; exit 3`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\nset -e\nCAAM="+dir+"/caam\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(dir+"/caam", 0o700); err != nil {
		t.Fatal(err)
	}
	return Tools{CAAMKeygen: dir + "/caam-keygen", CAAMFolder: dir + "/caam", DCPTool: dir + "/dcp", DCPBlob: dir + "/fail"}, dir
}

func plainOf(cfg Config, d Disk) *plainDisk {
	return d.Type.kind().of(New(cfg, File{}), d).(*plainDisk)
}

// Where each type's key comes from, and what the kernel is given.
func TestKeys(t *testing.T) {
	tools, _ := vendor(t)
	for _, tt := range []struct {
		disk   Disk
		file   string // that the key is made as; "" where the kernel would make it
		typ    string
		size   int
		cipher string
	}{
		{Disk{Type: Versatile}, "k.txt", "logon", 32, "aes-cbc-essiv:sha256"},
		{Disk{Type: CAAM, Mode: NXP}, "k.bb", "logon", 36, "capi:tk(cbc(aes))-plain"},
		{Disk{Type: DCP, Mode: NXP}, "k", "logon", 32, "capi:cbc(aes)-essiv:sha256"},
		{Disk{Type: CAAM, Mode: Mainline}, "", "trusted", 32, "capi:cbc(aes)-plain64"},
		{Disk{Type: DCP, Mode: Mainline}, "", "trusted", 32, "capi:cbc(aes)-essiv:sha256"},
	} {
		d := tt.disk
		d.Name, d.Dir, d.Image, d.Key = "d", t.TempDir(), "file.img", "k"
		s := plainOf(Config{Tools: tools}, d)
		want := []byte(nil)
		if tt.file == "" {
			if err := os.WriteFile(d.file(blobSuffix), []byte("00ff00ff\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			want = []byte("load 00ff00ff")
		} else {
			if err := s.ensureKey(t.Context(), true); !errors.Is(err, ErrKeyMissing) {
				t.Errorf("%s %s: a key was made beside an image: %v", d.Type, d.Mode, err)
			}
			if err := s.ensureKey(t.Context(), false); err != nil {
				t.Fatal(err)
			}
			if s.key.keyFile(d) != filepath.Join(d.Dir, tt.file) {
				t.Errorf("%s %s: key in %s", d.Type, d.Mode, s.key.keyFile(d))
			}
		}
		loads(t, s, crypt.KernelKey{Type: tt.typ, Size: tt.size, Payload: want}, tt.cipher)
		if left, _ := filepath.Glob(tools.CAAMFolder + "/*"); tt.disk.Type == CAAM && len(left) > 1 {
			t.Errorf("keys are left in %v", left)
		}
	}
}

// loads wants a disk's key to be what the kernel is given, each time, and its file to stay.
// Without a payload any of the right size is.
func loads(t *testing.T, s *plainDisk, want crypt.KernelKey, cipher string) {
	t.Helper()
	before, err := os.ReadFile(s.key.keyFile(s.Disk))
	if err != nil {
		t.Fatal(err)
	}
	key, err := s.loadKey(t.Context(), s.source())
	if err != nil {
		t.Fatal(err)
	}
	if key.Type != want.Type || key.Size != want.Size || key.Description != "logkey:k" || s.key.cipher(s.Disk) != cipher ||
		want.Payload == nil && len(key.Payload) != want.Size || want.Payload != nil && !bytes.Equal(key.Payload, want.Payload) {
		t.Errorf("%s %s: %s key %q of %d bytes, %d in the payload", s.Type, s.Mode, key.Type, key.Description, key.Size, len(key.Payload))
	}
	again, err := s.loadKey(t.Context(), s.source())
	if err != nil || !bytes.Equal(again.Payload, key.Payload) {
		t.Errorf("%s %s: another key the second time, %v", s.Type, s.Mode, err)
	}
	if err := s.ensureKey(t.Context(), true); err != nil {
		t.Error(err)
	}
	if after, err := os.ReadFile(s.key.keyFile(s.Disk)); err != nil || !bytes.Equal(before, after) {
		t.Errorf("%s %s: the key file was changed, %v", s.Type, s.Mode, err)
	}
}

func TestBadKeys(t *testing.T) {
	tools, dir := vendor(t)
	broken := tools
	broken.CAAMKeygen, broken.DCPTool = dir+"/fail", dir+"/none"
	for _, tt := range []struct {
		disk    Disk
		content string // of the key file; "" for none
		tools   Tools
		want    error
	}{
		{Disk{Type: Versatile}, "", tools, ErrKeyMissing},
		{Disk{Type: Versatile}, "short", tools, ErrBadKey},
		{Disk{Type: CAAM, Mode: Mainline}, "not hex", tools, ErrBadKey},
		{Disk{Type: CAAM, Mode: Mainline}, "\n", tools, ErrBadKey},
		{Disk{Type: CAAM, Mode: NXP}, "blob", broken, ErrTool},
		{Disk{Type: DCP, Mode: NXP}, "blob", broken, ErrTool},
		{Disk{Type: DCP, Mode: NXP}, "YQ==", tools, ErrBadKey},
	} {
		d := tt.disk
		d.Name, d.Dir, d.Image, d.Key = "d", t.TempDir(), "file.img", "k"
		s := plainOf(Config{Tools: tt.tools}, d)
		if tt.content != "" {
			if err := os.WriteFile(s.key.keyFile(d), []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		key, err := s.loadKey(t.Context(), s.key.keyFile(d))
		if !errors.Is(err, tt.want) || key.Payload != nil {
			t.Errorf("%s %s with %q: %v, want %v", d.Type, d.Mode, tt.content, err, tt.want)
		}
	}
}

// A migration whose program fails leaves nothing, and the vendor's key as it was.
func TestMigrationFails(t *testing.T) {
	tools, _ := vendor(t)
	d := Disk{Name: "d", Type: DCP, Mode: Mainline, MigrateKey: true, Dir: t.TempDir(), Image: "file.img", Key: "k"}
	if err := os.WriteFile(d.file(""), []byte("YQ=="), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := plainOf(Config{Tools: tools}, d).migrate(t.Context(), d.file(pendingSuffix)); !errors.Is(err, ErrTool) {
		t.Errorf("got %v", err)
	}
	if left, _ := filepath.Glob(d.Dir + "/*"); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// An image that would not fit is not begun.
func TestRoom(t *testing.T) {
	d := Disk{Name: "d", Type: Versatile, Dir: t.TempDir(), Image: "i", Size: 1 << 50}
	if err := roomFor(d); !errors.Is(err, crypt.ErrNoSpace) {
		t.Errorf("got %v", err)
	}
}
