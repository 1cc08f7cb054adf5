package snapshottertest

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/opencontainers/go-digest"
)

// Blobs is a content store at content below dir.
func Blobs(dir string) (content.Store, error) {
	return local.NewLabeledStore(filepath.Join(dir, "content"), &memoryLabels{all: map[digest.Digest]map[string]string{}})
}

// memoryLabels keeps the labels of a content store.
type memoryLabels struct {
	mu  sync.Mutex
	all map[digest.Digest]map[string]string
}

// Get implements local.LabelStore, as the following.
func (m *memoryLabels) Get(d digest.Digest) (map[string]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.all[d]), nil
}

// Set replaces the labels of a blob.
func (m *memoryLabels) Set(d digest.Digest, labels map[string]string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all[d] = maps.Clone(labels)
	return nil
}

// Update adds to the labels of a blob.
func (m *memoryLabels) Update(d digest.Digest, labels map[string]string) (map[string]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all[d] == nil {
		m.all[d] = map[string]string{}
	}
	maps.Copy(m.all[d], labels)
	return maps.Clone(m.all[d]), nil
}

// LayerTar is a tar of files that hold their own names.
func LayerTar(names ...string) ([]byte, error) {
	var files []string
	for _, name := range names {
		files = append(files, name, name)
	}
	return FileTar(files...)
}

// FileTar is a tar of files, by their names and contents.
func FileTar(files ...string) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for file := range slices.Chunk(files, 2) {
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: file[0], Mode: 0o644, Size: int64(len(file[1]))})
		_, writeErr := io.WriteString(w, file[1])
		if err := errors.Join(err, writeErr); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return out.Bytes(), err
}
