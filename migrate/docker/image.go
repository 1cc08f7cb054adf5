package docker

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Info is what an engine tells of itself.
type Info struct {
	ID          string `json:"id"`
	Version     string `json:"version"`     // "26.1.5+dfsg1"
	Driver      string `json:"driver"`      // "overlay2", "layervault"
	Snapshotter bool   `json:"snapshotter"` // Driver is one of containerd's
	Root        string `json:"data_root"`
	Address     string `json:"address"`
}

// snapshotterType is the type of driver that engines with containerd's image store tell of.
const snapshotterType = "io.containerd.snapshotter.v1"

// Info asks the engine for what it is.
func (c *Client) Info(ctx context.Context) (Info, error) {
	var info struct {
		ID, ServerVersion, Driver, DockerRootDir string
		DriverStatus                             [][2]string
	}
	if err := c.get(ctx, "ask for the engine's settings", "/info", nil, &info); err != nil {
		return Info{}, err
	}
	return Info{
		ID: info.ID, Version: info.ServerVersion, Driver: info.Driver, Root: info.DockerRootDir, Address: c.address,
		Snapshotter: slices.Contains(info.DriverStatus, [2]string{"driver-type", snapshotterType}),
	}, nil
}

// Image is what an engine tells of an image.
type Image struct {
	// ID is the digest of the configuration in a graph driver's store, and that of the manifest or
	// index in containerd's.
	ID      string
	Tags    []string // "busybox:1", sorted
	Digests []string // "busybox@sha256:..." of the registry, sorted
	Size    int64
	Content Content
}

// Content is what two engines must tell alike of one image.
type Content struct {
	Layers []string `json:"layers,omitempty"` // digests of the layers' tars, lowest first
	Config Config   `json:"config"`
}

// Config is an image's configuration, as far as every engine and every store tells of it. Empty
// members are nil, since engines differ in which of them they leave out.
type Config struct {
	Architecture string              `json:"architecture,omitempty"`
	OS           string              `json:"os,omitempty"`
	Author       string              `json:"author,omitempty"`
	User         string              `json:"user,omitempty"`
	Env          []string            `json:"env,omitempty"`
	Entrypoint   []string            `json:"entrypoint,omitempty"`
	Cmd          []string            `json:"cmd,omitempty"`
	WorkingDir   string              `json:"working_dir,omitempty"`
	StopSignal   string              `json:"stop_signal,omitempty"`
	Labels       map[string]string   `json:"labels,omitempty"`
	Ports        map[string]struct{} `json:"ports,omitempty"`
	Volumes      map[string]struct{} `json:"volumes,omitempty"`
	Shell        []string            `json:"shell,omitempty"`
	OnBuild      []string            `json:"on_build,omitempty"`
	Healthcheck  []string            `json:"healthcheck,omitempty"`
}

// inspected is the answer to GET /images/NAME/json.
type inspected struct {
	ID           string
	RepoTags     []string
	RepoDigests  []string
	Size         int64
	Architecture string
	OS           string
	Author       string
	Config       struct {
		User, WorkingDir, StopSignal         string
		Env, Entrypoint, Cmd, Shell, OnBuild []string
		Labels                               map[string]string
		ExposedPorts, Volumes                map[string]struct{}
		Healthcheck                          struct{ Test []string }
	}
	RootFS struct{ Layers []string }
}

// Inspect asks for one image by a name or an ID. Error: ErrNotFound.
func (c *Client) Inspect(ctx context.Context, name string) (Image, error) {
	var in inspected
	if err := c.get(ctx, "inspect image "+name, "/images/"+name+"/json", nil, &in); err != nil {
		return Image{}, err
	}
	return in.image(), nil
}

func (in *inspected) image() Image {
	conf := &in.Config
	return Image{
		ID: in.ID, Size: in.Size, Tags: tags(in.RepoTags), Digests: digests(in.RepoDigests),
		Content: Content{Layers: some(in.RootFS.Layers), Config: Config{
			Architecture: in.Architecture, OS: in.OS, Author: in.Author,
			User: conf.User, Env: some(conf.Env), Entrypoint: some(conf.Entrypoint), Cmd: some(conf.Cmd), WorkingDir: conf.WorkingDir,
			StopSignal: conf.StopSignal, Labels: filled(conf.Labels), Ports: filled(conf.ExposedPorts), Volumes: filled(conf.Volumes),
			Shell: some(conf.Shell), OnBuild: some(conf.OnBuild), Healthcheck: some(conf.Healthcheck.Test),
		}},
	}
}

// some is a list, nil for an empty one.
func some(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	return list
}

// filled is a map, nil for an empty one.
func filled[V any](m map[string]V) map[string]V {
	if len(m) == 0 {
		return nil
	}
	return m
}

// none is what older engines put in place of a name.
const none = "<none>"

// tags are the names with a tag. In containerd's store a name with a digest stands among them.
func tags(names []string) []string {
	return sorted(names, func(name string) bool { return !strings.Contains(name, "@") })
}

func digests(names []string) []string {
	return sorted(names, func(name string) bool { return strings.Contains(name, "@") })
}

func sorted(names []string, want func(string) bool) []string {
	var list []string
	for _, name := range names {
		if want(name) && !strings.Contains(name, none) {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// Images lists the images, dangling ones too but not those of which only others are made, sorted
// by their IDs. Their content is asked for by Inspect.
func (c *Client) Images(ctx context.Context) ([]Image, error) {
	var list []struct {
		ID                    string
		RepoTags, RepoDigests []string
		Size                  int64
	}
	if err := c.get(ctx, "list the images", "/images/json", url.Values{"digests": {"1"}}, &list); err != nil {
		return nil, err
	}
	images := make([]Image, 0, len(list))
	for _, im := range list {
		images = append(images, Image{ID: im.ID, Tags: tags(im.RepoTags), Digests: digests(im.RepoDigests), Size: im.Size})
	}
	slices.SortFunc(images, func(a, b Image) int { return cmp.Compare(a.ID, b.ID) })
	return images, nil
}

// LayersSize is what all layers of the images take, each counted once; 0 if the engine does not say.
func (c *Client) LayersSize(ctx context.Context) (int64, error) {
	var usage struct{ LayersSize int64 }
	err := c.get(ctx, "ask for the disk usage", "/system/df", url.Values{"type": {"image"}}, &usage)
	return usage.LayersSize, err
}

// Tag gives an image one more name.
func (c *Client) Tag(ctx context.Context, id, name string) error {
	repo, tag := name, ""
	if colon := strings.LastIndexByte(name, ':'); colon > strings.LastIndexByte(name, '/') {
		repo, tag = name[:colon], name[colon+1:]
	}
	return c.ask(ctx, "tag image "+name, http.MethodPost, "/images/"+id+"/tag", url.Values{"repo": {repo}, "tag": {tag}}, nil)
}

// Remove takes a name off an image, and removes the image with its last name. Errors: ErrNotFound,
// and ErrConflict if a container needs it.
func (c *Client) Remove(ctx context.Context, name string) error {
	return c.ask(ctx, "remove image "+name, http.MethodDelete, "/images/"+name, nil, nil)
}
