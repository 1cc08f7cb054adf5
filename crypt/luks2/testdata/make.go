//go:build ignore

// Make writes the frozen headers in this folder anew, from the root of the repository:
//
//	go run ./crypt/luks2/testdata/make.go crypt/luks2/testdata [NAME...]
//
// They are the first megabyte of images that this package or cryptsetup made, gzipped,
// and an entry in fixtures.json that says what they are and which version made them. Made
// once and then kept: a reader of tomorrow must read what was written today. So only
// make new ones beside them. cryptsetup can make the one whose key slot is
// encrypted with Adiantum only where it has device-mapper (tests/guest).
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"layervault/crypt/luks2"
)

type fixture struct {
	Name, MadeBy, Passphrase, UUID, VolumeKey string
	Segment                                   luks2.Segment
	Owner                                     *luks2.Owner `json:",omitempty"` // of format 2
}

const uuid = "5b3c1a52-6e3f-4d0b-9a77-0f0e4c1d2b3a"

// small makes cryptsetup's header one megabyte with room for one slot, quickly.
var small = []string{"--offset", "2048", "--luks2-metadata-size", "16k", "--sector-size", "4096"}

var stock = map[string][]string{
	"stock-xts512-pbkdf2":   {"--luks2-keyslots-size", "256k", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"},
	"stock-xts256-argon2id": {"--luks2-keyslots-size", "128k", "--key-size", "256", "--pbkdf-memory", "1024", "--pbkdf-force-iterations", "4", "--pbkdf-parallel", "2"},
	"stock-essiv-sha512":    {"--luks2-keyslots-size", "128k", "--cipher", "aes-cbc-essiv:sha256", "--key-size", "256", "--hash", "sha512", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"},
	"stock-adiantum":        {"--luks2-keyslots-size", "128k", "--cipher", "xchacha12,aes-adiantum-plain64", "--key-size", "256", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"},
}

var ours = map[string]struct {
	params luks2.Params
	kdf    luks2.KDF
}{
	"ours-default":         {luks2.Params{Flags: []string{luks2.FlagNoReadWorkqueue}}, luks2.RandomKeyKDF()},
	"ours-format2":         {luks2.Params{Flags: []string{luks2.FlagAllowDiscards}, Owner: &luks2.Owner{Kind: "volume", ID: uuid + "#3"}, Tokens: []json.RawMessage{json.RawMessage(`{"type":"layervault-volume","keyslots":[],"name":"data"}`)}}, luks2.RandomKeyKDF()},
	"ours-adiantum-argon2": {luks2.Params{Cipher: luks2.CipherAdiantum, SectorSize: 512, Label: "layer"}, luks2.KDF{Type: luks2.KDFArgon2id, Iterations: 4, MemoryKiB: 1024, Parallelism: 2}},
}

func main() {
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(dir string, only []string) error {
	index := filepath.Join(dir, "fixtures.json")
	var list []fixture
	if b, err := os.ReadFile(index); err == nil {
		if err := json.Unmarshal(b, &list); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var failed []error
	for _, name := range only {
		if slices.ContainsFunc(list, func(f fixture) bool { return f.Name == name }) {
			failed = append(failed, fmt.Errorf("%s is there already", name))
			continue
		}
		f, err := make1(dir, name)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", name, err))
			continue
		}
		list = append(list, f)
	}
	b, err := json.MarshalIndent(list, "", "\t")
	if err != nil {
		return err
	}
	return errors.Join(append(failed, os.WriteFile(index, append(b, '\n'), 0o644))...)
}

func make1(dir, name string) (fixture, error) {
	tmp, err := os.MkdirTemp("", "fixture")
	if err != nil {
		return fixture{}, err
	}
	defer os.RemoveAll(tmp)
	f, err := os.OpenFile(filepath.Join(tmp, "image"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fixture{}, err
	}
	defer f.Close()
	if err := f.Truncate(2 << 20); err != nil {
		return fixture{}, err
	}
	fix := fixture{Name: name, Passphrase: "open " + name, UUID: uuid, MadeBy: "this package"}
	if o, ok := ours[name]; ok {
		o.params.UUID = uuid
		fix.Owner = o.params.Owner
		_, key, err := luks2.Format(f, o.params, o.kdf, []byte(fix.Passphrase))
		if err != nil {
			return fixture{}, err
		}
		fix.VolumeKey = hex.EncodeToString(key)
	} else if args, ok := stock[name]; ok {
		version, err := exec.Command("cryptsetup", "--version").Output()
		if err != nil {
			return fixture{}, err
		}
		fix.MadeBy = string(bytes.TrimSpace(version))
		args = slices.Concat([]string{"luksFormat", "--batch-mode", "--type", "luks2", "--uuid", uuid, "--key-file", "-", f.Name()}, small, args)
		if err := cryptsetup(fix.Passphrase, args...); err != nil {
			return fixture{}, err
		}
		keyFile := filepath.Join(tmp, "key")
		if err := cryptsetup(fix.Passphrase, "luksDump", "--batch-mode", "--dump-volume-key", "--volume-key-file", keyFile, "--key-file", "-", f.Name()); err != nil {
			return fixture{}, err
		}
		key, err := os.ReadFile(keyFile)
		if err != nil {
			return fixture{}, err
		}
		fix.VolumeKey = hex.EncodeToString(key)
	} else {
		return fixture{}, errors.New("no such fixture")
	}
	h, err := luks2.Read(f)
	if err != nil {
		return fixture{}, err
	}
	fix.Segment = h.Segment()
	return fix, save(f, filepath.Join(dir, name+".gz"))
}

func save(f *os.File, path string) error {
	image := make([]byte, 1<<20)
	if _, err := f.ReadAt(image, 0); err != nil {
		return err
	}
	var buf bytes.Buffer
	z, _ := gzip.NewWriterLevel(&buf, gzip.BestCompression)
	if _, err := z.Write(image); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return os.WriteFile(path, buf.Bytes(), 0o644)
}

func cryptsetup(passphrase string, args ...string) error {
	cmd := exec.Command("cryptsetup", args...)
	cmd.Stdin = bytes.NewReader([]byte(passphrase))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}
