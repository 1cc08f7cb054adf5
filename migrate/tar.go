package migrate

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"
)

const (
	// endOfTar is the mark at the end of a tar: two blocks of zeros.
	endOfTar = 2 * 512
	// maxManifest bounds manifest.json. One image with thousands of names and layers has less than
	// 1 MiB.
	maxManifest = 4 << 20
	// maxConfig bounds an image's configuration, as containerd does.
	maxConfig = 8 << 20
	// guardBuffer is how much is read at once.
	guardBuffer = 64 << 10
)

// guard passes a stream on, but its end only after a check: so that whoever reads it can never
// take what is damaged for complete. It must be closed. An HTTP client may still read when its
// request is answered already: Failure and Close may be called meanwhile.
type guard struct {
	src    io.Reader
	seen   io.Writer    // sees all that is read
	finish func() error // the check; called once, with all seen
	close  func()       // ends what finish waits for
	buffer []byte       // for src
	held   []byte       // read, and not passed on
	ended  bool         // src is at its end, and the check passed

	mu  sync.Mutex
	err error // why no more is passed on
}

// Failure is why the stream was not passed on to its end, nil if that did not happen.
func (g *guard) Failure() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

func (g *guard) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err = err
}

// Read implements io.Reader.
func (g *guard) Read(p []byte) (int, error) {
	for g.Failure() == nil && !g.ended && len(g.held) <= endOfTar {
		g.fill()
	}
	free := len(g.held)
	switch err := g.Failure(); {
	case err != nil:
		return 0, err
	case g.ended && free == 0:
		return 0, io.EOF
	case !g.ended:
		free -= endOfTar
	}
	n := copy(p, g.held[:free])
	g.held = g.held[:copy(g.held, g.held[n:])]
	return n, nil
}

// fill reads once from the source.
func (g *guard) fill() {
	n, err := g.src.Read(g.buffer)
	g.held = append(g.held, g.buffer[:n]...)
	if _, seenErr := g.seen.Write(g.buffer[:n]); seenErr != nil {
		g.fail(seenErr)
		return
	}
	switch {
	case errors.Is(err, io.EOF):
		err = g.finish()
		g.ended = err == nil
	case err == nil:
		return
	}
	g.fail(err)
}

// Close ends the check.
func (g *guard) Close() { g.close() }

// guardTar passes on the tar of one image as an engine saves it. config is the digest of its
// configuration, "" if it is not known. Damage is ErrArchive.
func guardTar(src io.Reader, config string) *guard {
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := readTar(r, config)
		if err != nil {
			err = fmt.Errorf("%w: %w", ErrArchive, err)
		}
		_ = r.CloseWithError(err) // never fails
		done <- err
	}()
	end := func() error {
		_ = w.Close() // never fails
		err := <-done
		done <- err // for the next caller
		return err
	}
	g := &guard{src: src, seen: w, buffer: make([]byte, guardBuffer), close: func() { _ = end() }}
	g.finish = func() error {
		if err := end(); err != nil {
			return err
		}
		if n := len(g.held); n < endOfTar || len(bytes.Trim(g.held[n-endOfTar:], "\x00")) > 0 {
			return fmt.Errorf("%w: it ends too early", ErrArchive)
		}
		return nil
	}
	return g
}

// readTar reads a tar to its end, and wants it to be of one image.
func readTar(r io.Reader, config string) error {
	var manifest []struct{ Config string }
	sums := map[string]string{} // of files that may be a configuration
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		switch name := path.Clean(h.Name); {
		case name == "manifest.json":
			data, err := io.ReadAll(io.LimitReader(t, maxManifest))
			if err != nil {
				return err
			}
			if err := json.Unmarshal(data, &manifest); err != nil {
				return fmt.Errorf("manifest.json: %w", err)
			}
		case config != "" && h.Size <= maxConfig && strings.Contains(name, strings.TrimPrefix(config, "sha256:")):
			sum := sha256.New()
			if _, err := io.Copy(sum, t); err != nil {
				return err
			}
			sums[name] = "sha256:" + hex.EncodeToString(sum.Sum(nil))
		}
	}
	if _, err := io.Copy(io.Discard, r); err != nil { // padding
		return err
	}
	switch {
	case len(manifest) != 1:
		return fmt.Errorf("it holds %d images instead of one", len(manifest))
	case config != "" && sums[path.Clean(manifest[0].Config)] != config:
		return fmt.Errorf("it holds the image %s instead of %s", manifest[0].Config, config)
	}
	return nil
}

// guardSum passes on a stream of a known length and SHA-256. Anything else is ErrArchive.
func guardSum(src io.Reader, size int64, sum string) *guard {
	hash := sha256.New()
	n := int64(0)
	g := &guard{seen: hash, buffer: make([]byte, guardBuffer), close: func() {}}
	g.src = readerFunc(func(p []byte) (int, error) {
		got, err := src.Read(p)
		n += int64(got)
		return got, err
	})
	g.finish = func() error {
		if got := hex.EncodeToString(hash.Sum(nil)); n != size || got != sum {
			return fmt.Errorf("%w: %d bytes with SHA-256 %s instead of %d bytes with %s", ErrArchive, n, got, size, sum)
		}
		return nil
	}
	return g
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
