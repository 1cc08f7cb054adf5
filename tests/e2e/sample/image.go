package sample

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
)

// Layered writes an image of n layers, as docker save does. Layer i holds
// /layer/i, rewrites /last with its own number, and removes /layer/(i-1) where i
// is a multiple of ten, so that the merged tree shows the order and the whiteouts.
func Layered(w io.Writer, tag string, n int) error {
	layers := make([][]byte, n)
	for i := range layers {
		var b bytes.Buffer
		tw := tar.NewWriter(&b)
		files := []file{dir("layer", 0o755), reg(fmt.Sprintf("layer/%d", i), fmt.Appendf(nil, "%d\n", i)), reg("last", fmt.Appendf(nil, "%d\n", i))}
		if i > 0 && i%10 == 0 {
			files = append(files, reg(fmt.Sprintf("layer/.wh.%d", i-1), nil))
		}
		for _, f := range files {
			if err := put(tw, f); err != nil {
				return err
			}
		}
		if err := tw.Close(); err != nil {
			return err
		}
		layers[i] = b.Bytes()
	}
	return Image(w, tag, layers)
}

// Image writes an image of the given layer tars, as docker save does.
func Image(w io.Writer, tag string, layers [][]byte) error {
	type rootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	}
	type config struct {
		Created      string         `json:"created"`
		Architecture string         `json:"architecture"`
		OS           string         `json:"os"`
		Config       map[string]any `json:"config"`
		RootFS       rootFS         `json:"rootfs"`
	}
	c := config{Created: "2023-11-14T22:13:20Z", Architecture: "amd64", OS: "linux", Config: map[string]any{}, RootFS: rootFS{Type: "layers"}}
	type manifest struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	m := manifest{RepoTags: []string{tag}}
	tw := tar.NewWriter(w)
	for i, l := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, fmt.Sprintf("sha256:%x", sha256.Sum256(l)))
		name := fmt.Sprintf("%d/layer.tar", i)
		m.Layers = append(m.Layers, name)
		if err := put(tw, reg(name, l)); err != nil {
			return err
		}
	}
	raw, err := json.Marshal(c)
	if err != nil {
		return err
	}
	m.Config = fmt.Sprintf("%x.json", sha256.Sum256(raw))
	if err := put(tw, reg(m.Config, raw)); err != nil {
		return err
	}
	if raw, err = json.Marshal([]manifest{m}); err != nil {
		return err
	}
	if err := put(tw, reg("manifest.json", raw)); err != nil {
		return err
	}
	return tw.Close()
}
