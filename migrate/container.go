package migrate

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"layervault/internal/durable"
	"layervault/migrate/docker"
)

// ContainerRow is a container in a plan. A migration moves none: it writes down how to make them
// again.
type ContainerRow struct {
	Name     string   `json:"name"`
	Image    string   `json:"image"`
	Status   string   `json:"status"`
	Restart  string   `json:"restart"`
	Writable int64    `json:"writable_bytes"` // in its own layer, which is not moved
	Networks []string `json:"networks"`
	Mounts   []string `json:"mounts"`
	Compose  string   `json:"compose_project,omitempty"`
}

// VolumeRow is a volume in a plan.
type VolumeRow struct {
	Name   string `json:"name"`
	Driver string `json:"driver"`
	Path   string `json:"path,omitempty"`
	Same   bool   `json:"same_vault"` // nothing is to be done: both engines have it
}

// composeLabel is what docker compose names its project with.
const composeLabel = "com.docker.compose.project"

// others lists what is not moved.
func (m *Migration) others(ctx context.Context, p *Plan) (err error) {
	if p.details, err = m.From.Containers(ctx); err != nil {
		return fmt.Errorf("old engine: %w", err)
	}
	if p.volumes, err = m.From.Volumes(ctx); err != nil {
		return fmt.Errorf("old engine: %w", err)
	}
	if p.networks, err = m.From.Networks(ctx); err != nil {
		return fmt.Errorf("old engine: %w", err)
	}
	p.Networks = append(p.Networks, slices.Sorted(maps.Keys(p.networks))...)
	for _, v := range p.volumes {
		name, _, _ := strings.Cut(v.Driver, ":")
		row := VolumeRow{Name: v.Name, Driver: v.Driver, Same: name == driverName}
		if !row.Same {
			row.Path = v.Mountpoint
		}
		p.Volumes = append(p.Volumes, row)
	}
	for i := range p.details {
		c := &p.details[i]
		row := ContainerRow{
			Name: c.Name, Image: c.Config.Image, Status: c.State.Status, Restart: restart(c), Writable: c.Writable,
			Networks: append([]string{}, slices.Sorted(maps.Keys(c.NetworkSettings.Networks))...), Mounts: []string{}, Compose: c.Config.Labels[composeLabel],
		}
		for _, mount := range c.Mounts {
			row.Mounts = append(row.Mounts, source(mount)+":"+mount.Destination)
		}
		p.Containers = append(p.Containers, row)
	}
	return nil
}

// source is what a mount shows: the name of a volume, or a path.
func source(m docker.Mount) string {
	if m.Name != "" {
		return m.Name
	}
	return m.Source
}

func restart(c *docker.Container) string {
	policy := c.HostConfig.RestartPolicy
	switch {
	case policy.Name == "":
		return "no"
	case policy.MaximumRetryCount > 0:
		return fmt.Sprintf("%s:%d", policy.Name, policy.MaximumRetryCount)
	}
	return policy.Name
}

const (
	imagesFolder     = "images"
	containersFolder = "containers"
	createFile       = "create.txt"
)

// createHead is at the top of the list of commands.
const createHead = `# One command for each container of the old engine, to make it anew on the new one.
# This is a help and no promise: compare with the .json file beside it, which has all that docker
# inspect told. What a container wrote into its own layer is not moved; to keep it, make an image of
# it on the old engine first (docker commit NAME NAME:kept), and run the migration again.
`

// fileName is a container's name as docker allows it, and so that of a file.
var fileName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// keepOthers writes down containers, networks and volumes in the folder.
func (m *Migration) keepOthers(ctx context.Context, p *Plan) error {
	dir := filepath.Join(m.Dir, containersFolder)
	if err := makeFolder(dir); err != nil {
		return err
	}
	var lines strings.Builder
	lines.WriteString(createHead)
	for i := range p.details {
		c := &p.details[i]
		file := c.Name
		if !fileName.MatchString(file) || len(file) > 200 {
			file = c.ID
		}
		if !fileName.MatchString(file) {
			return fmt.Errorf("container %q has neither a name nor an ID", c.Name)
		}
		var image *docker.Config
		if im, err := m.From.Inspect(ctx, c.Image); err == nil {
			image = &im.Content.Config // else its image is gone, and nothing is left out of the command
		}
		if err := writeJSON(dir, file+".json", c.Raw); err != nil {
			return err
		}
		lines.WriteString("\n" + CreateCommand(c, image))
	}
	if err := durable.Replace(filepath.Join(dir, createFile), ".tmp-"+createFile, []byte(lines.String())); err != nil {
		return err
	}
	if err := writeJSON(m.Dir, "networks.json", p.networks); err != nil {
		return err
	}
	return writeJSON(m.Dir, "volumes.json", p.volumes)
}

func writeJSON(dir, name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return durable.Replace(filepath.Join(dir, name), ".tmp-"+name, append(data, '\n'))
}

// makeFolder makes a folder of the migration, for its owner alone.
func makeFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("folder of the migration: %w", err)
	}
	return durable.SyncPath(filepath.Dir(dir))
}
