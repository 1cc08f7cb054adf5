// Package dockertest has a Docker engine for tests: its API on a unix socket, as far as a migration
// uses it, with images in memory.
package dockertest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// Image is an image of the engine.
type Image struct {
	Tags    []string
	Digests []string
	Env     []string
	Layers  [][]byte // each layer's tar, lowest first; any bytes do
}

// sum is a digest as docker writes it.
func sum(data []byte) string {
	s := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(s[:])
}

func (im *Image) diffs() (ids []string) {
	for _, l := range im.Layers {
		ids = append(ids, sum(l))
	}
	return ids
}

// config is the image's configuration, whose digest is its ID in a graph driver's store.
func (im *Image) config() []byte {
	data, err := json.Marshal(map[string]any{"architecture": "amd64", "os": "linux", "config": map[string]any{"Env": im.Env},
		"rootfs": map[string]any{"type": "layers", "diff_ids": im.diffs()}})
	if err != nil {
		panic(err) // strings can be encoded
	}
	return data
}

func (im *Image) size() (n int64) {
	for _, l := range im.Layers {
		n += int64(len(l))
	}
	return n
}

// Engine is the engine. Its fields are set before it is served, or under Lock.
type Engine struct {
	sync.Mutex

	ID, Version, API, MinAPI string
	Driver, Root             string
	Snapshotter              bool
	Images                   []*Image
	Registry                 map[string]*Image // what can be pulled, by NAME@DIGEST
	Containers               []string          // JSON as docker inspect prints it
	Volumes, Networks        string            // JSON lists

	// Fault answers a request in the engine's place, if it returns true. It is called with the lock
	// held, and path is without the version.
	Fault func(w http.ResponseWriter, r *http.Request, path string) bool
	// Spoil changes an image that is loaded.
	Spoil func(*Image)
	// LoadSays is a message at the end of each load: {"error": ...} or {"stream": ...}.
	LoadSays string

	Requests []string // METHOD PATH of each request, with the version
}

// Old is an engine on layervault's graph driver, New one on the snapshotter.
func Old(root string) *Engine {
	return &Engine{ID: "old", Version: "26.1.5", API: "1.45", MinAPI: "1.24", Driver: "layervault", Root: root}
}

// New is an engine on the snapshotter.
func New(root string) *Engine {
	return &Engine{ID: "new", Version: "29.1.2", API: "1.52", MinAPI: "1.44", Driver: "layervault", Snapshotter: true, Root: root}
}

// Serve answers at a socket until stop is called.
func (e *Engine) Serve(socket string) (stop func(), err error) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: e, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	return func() { _ = server.Close(); <-done }, nil
}

// IDOf is the ID of an image on this engine.
func (e *Engine) IDOf(im *Image) string {
	if e.Snapshotter {
		return sum(append([]byte("manifest of "), im.config()...))
	}
	return sum(im.config())
}

// find is the image of a name or ID, nil for none.
func (e *Engine) find(name string) *Image {
	i := slices.IndexFunc(e.Images, func(im *Image) bool {
		return e.IDOf(im) == name || slices.Contains(im.Tags, name) || slices.Contains(im.Digests, name)
	})
	if i < 0 {
		return nil
	}
	return e.Images[i]
}

// ServeHTTP implements http.Handler.
func (e *Engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.Lock()
	defer e.Unlock()
	e.Requests = append(e.Requests, r.Method+" "+r.URL.Path)
	path := r.URL.Path
	if v, rest, ok := strings.Cut(strings.TrimPrefix(path, "/v"), "/"); ok && strings.HasPrefix(v, "1.") {
		path = "/" + rest
	}
	if e.Fault != nil && e.Fault(w, r, path) {
		return
	}
	if err := e.answer(w, r, path); err != nil {
		Refuse(w, http.StatusInternalServerError, err.Error())
	}
}

// Refuse answers as docker does to what it does not do.
func Refuse(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"message": message})
}

func (e *Engine) answer(w http.ResponseWriter, r *http.Request, path string) error {
	switch image, isImage := strings.CutPrefix(path, "/images/"); {
	case isImage:
		return e.image(w, r, image)
	case path == "/version":
		return reply(w, map[string]string{"Version": e.Version, "ApiVersion": e.API, "MinAPIVersion": e.MinAPI})
	case path == "/info":
		info := map[string]any{"ID": e.ID, "ServerVersion": e.Version, "Driver": e.Driver, "DockerRootDir": e.Root}
		if e.Snapshotter {
			info["DriverStatus"] = [][2]string{{"driver-type", "io.containerd.snapshotter.v1"}}
		}
		return reply(w, info)
	case path == "/system/df":
		return reply(w, map[string]any{"LayersSize": e.layersSize()})
	case path == "/containers/json":
		return e.containers(w)
	case strings.HasPrefix(path, "/containers/"):
		return e.container(w, strings.TrimSuffix(strings.TrimPrefix(path, "/containers/"), "/json"))
	case path == "/volumes":
		return reply(w, map[string]any{"Volumes": list(e.Volumes)})
	case path == "/networks":
		return reply(w, list(e.Networks))
	}
	return errors.New("page not found: " + path)
}

// image answers what is asked below /images.
func (e *Engine) image(w http.ResponseWriter, r *http.Request, path string) error {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return err
	}
	name, verb := path, ""
	if slash := strings.LastIndexByte(path, '/'); slash >= 0 {
		name, verb = path[:slash], path[slash+1:]
	}
	switch {
	case r.Method == http.MethodDelete:
		return e.remove(w, path)
	case path == "json":
		return e.list(w)
	case path == "get":
		return e.save(w, query["names"])
	case path == "load":
		return e.load(w, r.Body)
	case path == "create":
		return e.pull(w, query.Get("fromImage"))
	case verb == "json":
		return e.inspect(w, name)
	case verb == "tag":
		im := e.find(name)
		if im == nil {
			return noSuch(w, name)
		}
		e.tag(im, query.Get("repo")+":"+query.Get("tag"))
		w.WriteHeader(http.StatusCreated)
		return nil
	}
	return errors.New("page not found: /images/" + path)
}

func reply(w http.ResponseWriter, v any) error { return json.NewEncoder(w).Encode(v) }

func list(text string) json.RawMessage {
	if text == "" {
		return json.RawMessage("[]")
	}
	return json.RawMessage(text)
}

func noSuch(w http.ResponseWriter, name string) error {
	Refuse(w, http.StatusNotFound, "No such image: "+name)
	return nil
}

func (e *Engine) layersSize() (n int64) {
	seen := map[string]bool{}
	for _, im := range e.Images {
		for _, l := range im.Layers {
			if !seen[sum(l)] {
				seen[sum(l)] = true
				n += int64(len(l))
			}
		}
	}
	return n
}

func (e *Engine) containers(w http.ResponseWriter) error {
	rows := []map[string]any{}
	for i := range e.Containers {
		rows = append(rows, map[string]any{"Id": fmt.Sprint("c", i), "SizeRw": 1000 * i})
	}
	return reply(w, rows)
}

func (e *Engine) container(w http.ResponseWriter, id string) error {
	for i, text := range e.Containers {
		if fmt.Sprint("c", i) == id {
			return reply(w, json.RawMessage(text))
		}
	}
	Refuse(w, http.StatusNotFound, "No such container: "+id)
	return nil
}

func (e *Engine) list(w http.ResponseWriter) error {
	rows := []map[string]any{}
	for _, im := range e.Images {
		tags := im.Tags
		if len(tags) == 0 && !e.Snapshotter {
			tags = []string{"<none>:<none>"} // as older engines say
		}
		rows = append(rows, map[string]any{"Id": e.IDOf(im), "RepoTags": tags, "RepoDigests": im.Digests, "Size": im.size()})
	}
	return reply(w, rows)
}

func (e *Engine) inspect(w http.ResponseWriter, name string) error {
	im := e.find(name)
	if im == nil {
		return noSuch(w, name)
	}
	answer := map[string]any{"Id": e.IDOf(im), "RepoTags": im.Tags, "RepoDigests": im.Digests, "Size": im.size(), "Architecture": "amd64", "Os": "linux",
		"RootFS": map[string]any{"Type": "layers", "Layers": im.diffs()}, "Config": map[string]any{"Env": im.Env}}
	if !e.Snapshotter { // older engines name what is empty
		answer["Config"] = map[string]any{"Env": im.Env, "Labels": map[string]string{}, "Volumes": nil, "OnBuild": []string{}, "User": ""}
	}
	return reply(w, answer)
}

// tag moves a tag to an image.
func (e *Engine) tag(im *Image, tag string) {
	for _, other := range e.Images {
		other.Tags = slices.DeleteFunc(other.Tags, func(t string) bool { return t == tag })
	}
	im.Tags = append(im.Tags, tag)
}

func (e *Engine) pull(w http.ResponseWriter, name string) error {
	im := e.Registry[name]
	if im == nil {
		return noSuch(w, name)
	}
	e.Images = append(e.Images, &Image{Digests: []string{name}, Env: im.Env, Layers: im.Layers})
	return reply(w, map[string]string{"status": "Downloaded newer image for " + name})
}

func (e *Engine) remove(w http.ResponseWriter, name string) error {
	im := e.find(name)
	if im == nil {
		return noSuch(w, name)
	}
	for _, c := range e.Containers {
		if len(im.Tags) <= 1 && strings.Contains(c, e.IDOf(im)) {
			Refuse(w, http.StatusConflict, "conflict: unable to remove repository reference "+name+": container is using it")
			return nil
		}
	}
	im.Tags = slices.DeleteFunc(im.Tags, func(t string) bool { return t == name })
	if len(im.Tags) == 0 {
		e.Images = slices.DeleteFunc(e.Images, func(other *Image) bool { return other == im })
	}
	return reply(w, []map[string]string{{"Untagged": name}})
}
