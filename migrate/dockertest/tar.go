package dockertest

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"
)

// manifest is an entry of manifest.json.
type manifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// save sends the tar of the images of these names.
func (e *Engine) save(w http.ResponseWriter, names []string) error {
	var images []*Image
	tags := map[*Image][]string{}
	for _, name := range names {
		im := e.find(name)
		if im == nil {
			return noSuch(w, name)
		}
		if !slices.Contains(images, im) {
			images = append(images, im)
		}
		if name != e.IDOf(im) {
			tags[im] = append(tags[im], name)
		}
	}
	w.Header().Set("Content-Type", "application/x-tar")
	out := tar.NewWriter(w)
	put := func(name string, data []byte) error {
		err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg})
		if err == nil {
			_, err = out.Write(data)
		}
		return err
	}
	blob := func(data []byte) (string, error) {
		name := "blobs/sha256/" + strings.TrimPrefix(sum(data), "sha256:")
		return name, put(name, data)
	}
	var rows []manifest
	for _, im := range images {
		row := manifest{RepoTags: tags[im]}
		var err error
		if row.Config, err = blob(im.config()); err != nil {
			return err
		}
		for _, l := range im.Layers {
			name, err := blob(l)
			if err != nil {
				return err
			}
			row.Layers = append(row.Layers, name)
		}
		rows = append(rows, row)
	}
	data, err := json.Marshal(rows)
	if err != nil {
		return err
	}
	return errors.Join(put("manifest.json", data), out.Close())
}

// load takes a tar of images. What is wrong with it is said in the stream, as docker does.
func (e *Engine) load(w http.ResponseWriter, body io.Reader) error {
	loaded, err := e.take(body)
	if err != nil {
		return reply(w, map[string]any{"error": err.Error(), "errorDetail": map[string]string{"message": err.Error()}})
	}
	for _, line := range loaded {
		if err := reply(w, map[string]string{"stream": line + "\n"}); err != nil {
			return err
		}
	}
	if e.LoadSays != "" {
		_, err = io.WriteString(w, e.LoadSays)
	}
	return err
}

// take reads a tar to its end before anything of it counts.
func (e *Engine) take(body io.Reader) (lines []string, err error) {
	files := map[string][]byte{}
	in := tar.NewReader(body)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if files[path.Clean(h.Name)], err = io.ReadAll(in); err != nil {
			return nil, err
		}
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		return nil, err
	}
	var rows []manifest
	if err := json.Unmarshal(files["manifest.json"], &rows); err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	for _, row := range rows {
		var config struct{ Config struct{ Env []string } }
		if err := json.Unmarshal(files[row.Config], &config); err != nil {
			return nil, fmt.Errorf("%s: %w", row.Config, err)
		}
		im := &Image{Env: config.Config.Env}
		for _, l := range row.Layers {
			im.Layers = append(im.Layers, files[l])
		}
		if e.Spoil != nil {
			e.Spoil(im)
		}
		if known := e.find(e.IDOf(im)); known != nil {
			im = known
		} else {
			e.Images = append(e.Images, im)
		}
		for _, tag := range row.RepoTags {
			e.tag(im, tag)
			lines = append(lines, "Loaded image: "+tag)
		}
		if len(row.RepoTags) == 0 {
			lines = append(lines, "Loaded image ID: "+e.IDOf(im))
		}
	}
	return lines, nil
}
