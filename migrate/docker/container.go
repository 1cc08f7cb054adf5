package docker

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strings"
)

// Container is what an engine tells of a container.
type Container struct {
	ID       string
	Name     string
	Writable int64           // bytes in its own layer
	Raw      json.RawMessage // all that docker inspect tells
	Inspected
}

// Inspected is what is read of a container's configuration.
type Inspected struct {
	Image  string // ID
	State  struct{ Status string }
	Config struct {
		Hostname, User, WorkingDir, StopSignal, Image string
		Env, Cmd, Entrypoint                          []string
		Labels                                        map[string]string
		Tty, OpenStdin                                bool
	}
	HostConfig struct {
		NetworkMode, PidMode, IpcMode, UsernsMode, CgroupParent, Runtime string
		Privileged, ReadonlyRootfs, AutoRemove, PublishAllPorts          bool
		Init                                                             *bool
		CapAdd, CapDrop, SecurityOpt, GroupAdd, ExtraHosts, DNS          []string
		Tmpfs, Sysctls                                                   map[string]string
		Memory, NanoCpus, ShmSize                                        int64
		PidsLimit                                                        *int64
		CpusetCpus                                                       string
		RestartPolicy                                                    struct {
			Name              string
			MaximumRetryCount int
		}
		PortBindings map[string][]struct{ HostIP, HostPort string }
		Devices      []struct{ PathOnHost, PathInContainer, CgroupPermissions string }
		LogConfig    struct {
			Type   string
			Config map[string]string
		}
		Ulimits        []struct{ Name string }
		DeviceRequests []json.RawMessage
		Links          []string
		VolumesFrom    []string
	}
	Mounts          []Mount
	NetworkSettings struct {
		Networks map[string]struct{ Aliases []string }
	}
}

// Mount is a mount of a container.
type Mount struct {
	Type, Name, Source, Destination, Driver, Mode string
	RW                                            bool
}

// Volume is a volume, as an engine tells of it.
type Volume struct {
	Name       string            `json:"name"`
	Driver     string            `json:"driver"`
	Mountpoint string            `json:"mountpoint,omitempty"`
	Options    map[string]string `json:"options,omitempty"`
}

// Containers lists all containers with their configuration, sorted by name.
func (c *Client) Containers(ctx context.Context) ([]Container, error) {
	var list []struct {
		ID     string
		SizeRw int64
	}
	if err := c.get(ctx, "list the containers", "/containers/json", url.Values{"all": {"1"}, "size": {"1"}}, &list); err != nil {
		return nil, err
	}
	var all []Container
	for _, row := range list {
		one := Container{ID: row.ID, Writable: row.SizeRw}
		err := c.get(ctx, "inspect container "+row.ID, "/containers/"+row.ID+"/json", nil, &one.Raw)
		if errors.Is(err, ErrNotFound) {
			continue // it was removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		var named struct{ Name string }
		if err := errors.Join(json.Unmarshal(one.Raw, &named), json.Unmarshal(one.Raw, &one.Inspected)); err != nil {
			return nil, &Error{Doing: "inspect container " + row.ID, Message: err.Error()}
		}
		one.Name = strings.TrimPrefix(named.Name, "/")
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b Container) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// Volumes lists the volumes, sorted by name.
func (c *Client) Volumes(ctx context.Context) ([]Volume, error) {
	var list struct{ Volumes []Volume }
	err := c.get(ctx, "list the volumes", "/volumes", nil, &list)
	slices.SortFunc(list.Volumes, func(a, b Volume) int { return strings.Compare(a.Name, b.Name) })
	return list.Volumes, err
}

// builtin are the networks that each engine has.
var builtin = []string{"bridge", "host", "none"}

// Networks lists the networks that somebody made, by name, with all that docker tells of them.
func (c *Client) Networks(ctx context.Context) (map[string]json.RawMessage, error) {
	var list []json.RawMessage
	if err := c.get(ctx, "list the networks", "/networks", nil, &list); err != nil {
		return nil, err
	}
	all := map[string]json.RawMessage{}
	for _, raw := range list {
		var named struct{ Name string }
		if err := json.Unmarshal(raw, &named); err != nil {
			return nil, &Error{Doing: "list the networks", Message: err.Error()}
		}
		if !slices.Contains(builtin, named.Name) {
			all[named.Name] = raw
		}
	}
	return all, nil
}
