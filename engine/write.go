package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"layervault/internal/durable"
)

var (
	// ErrChanged: somebody else wrote to the file meanwhile.
	ErrChanged = errors.New("file was changed meanwhile")
	// ErrRefused: the containerd that is to read the file does not accept it.
	ErrRefused = errors.New("containerd does not accept the configuration")
)

// keptSuffix is that of the copies of files that were replaced.
const keptSuffix = ".before-layervault"

// mostKept bounds the copies of one file.
const mostKept = 100

// fileMode is that of a new file: it has no secret, and other tools read it.
const fileMode = 0o644

// Write makes the file of a plan. The old one stays beside it, under the name that is returned,
// "" where there was none. A crash leaves the old file or the new one, and at most a temporary
// file beside it. Errors: ErrEdit for a plan that is not writable, ErrChanged, ErrRefused.
func (h Host) Write(ctx context.Context, p *Plan) (kept string, err error) {
	if p.text == nil {
		return "", fmt.Errorf("%s: %w", p.File, ErrEdit)
	}
	file := h.At(p.File)
	mode := fs.FileMode(fileMode)
	now, err := readFile(file)
	switch {
	case err == nil:
		// A link stays one.
		if file, err = filepath.EvalSymlinks(file); err != nil {
			return "", err
		}
		info, err := os.Stat(file)
		if err != nil {
			return "", err
		}
		mode = info.Mode().Perm()
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return "", err
		}
	default:
		return "", err
	}
	if !bytes.Equal(now, p.old) {
		return "", fmt.Errorf("%s: %w", p.File, ErrChanged)
	}
	if err := p.tryOut(ctx, filepath.Dir(file)); err != nil {
		return "", err
	}
	if len(now) > 0 {
		if kept, err = keep(file, now); err != nil {
			return "", err
		}
	}
	root, err := os.OpenRoot(filepath.Dir(file))
	if err != nil {
		return kept, err
	}
	err = durable.WriteFile(root, durable.TempName(file), filepath.Base(file), p.text, mode)
	return kept, errors.Join(err, root.Close())
}

// keep makes a copy of a file under the first free name.
func keep(file string, data []byte) (string, error) {
	name := file + keptSuffix
	for n := 1; n < mostKept; n++ {
		err := durable.Create(name, data)
		if !errors.Is(err, fs.ErrExist) {
			return name, err
		}
		name = file + keptSuffix + "." + strconv.Itoa(n)
	}
	return "", fmt.Errorf("%s: %d copies are there already: %w", file+keptSuffix, mostKept, fs.ErrExist)
}

// tryOut has the containerd that is to read the configuration read it, and looks at what it
// understood. The file lies where it will be, as imports are relative to it.
func (p *Plan) tryOut(ctx context.Context, dir string) (err error) {
	if p.program == "" || p.wanted == nil {
		return nil
	}
	f, err := os.CreateTemp(dir, ".tmp-layervault-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, err = f.Write(p.text)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, p.program, "--config", f.Name(), "config", "dump")
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%w: %w: %s", ErrRefused, err, bytes.TrimSpace(said.Bytes()))
	}
	d, err := parse(out)
	if err != nil {
		return fmt.Errorf("%w: its dump: %w", ErrRefused, err)
	}
	// What is imported is in the dump already.
	understood := &Settings{Proxies: map[string]Proxy{}}
	understood.merge(d.tree)
	if lacks := understood.Lacks(*p.wanted); len(lacks) > 0 {
		return fmt.Errorf("%w as it was meant: it does not see %s", ErrRefused, strings.Join(lacks, ", "))
	}
	return nil
}
