package volume

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/docker/go-plugins-helpers/volume"

	volumes "layervault/volume"
)

// request holds the fields of every request.
type request struct {
	Name string
	ID   string
	Opts map[string]string
}

var errNoID = errors.New("mount request has no ID; it could never be unmounted")

// call answers one request.
type call func(ctx context.Context, s Store, req request) (any, error)

// bodyless are the calls that ask for nothing in particular: a body says nothing.
var bodyless = map[string]bool{"List": true, "Capabilities": true}

// calls lists every method of the protocol.
func calls() map[string]call {
	return map[string]call{
		"Capabilities": func(context.Context, Store, request) (any, error) {
			return volume.CapabilitiesResponse{Capabilities: volume.Capability{Scope: "local"}}, nil
		},
		"Create": func(ctx context.Context, s Store, req request) (any, error) {
			want, err := volumes.ParseOptions(req.Opts)
			if err != nil {
				return nil, err
			}
			_, err = s.Create(ctx, req.Name, want)
			return struct{}{}, err
		},
		"Remove": func(ctx context.Context, s Store, req request) (any, error) {
			return struct{}{}, s.Remove(ctx, req.Name)
		},
		"Mount": func(ctx context.Context, s Store, req request) (any, error) {
			if req.ID == "" {
				return nil, errNoID
			}
			dir, err := s.Mount(ctx, req.Name, req.ID)
			return volume.MountResponse{Mountpoint: dir}, err
		},
		"Unmount": func(ctx context.Context, s Store, req request) (any, error) {
			err := s.Unmount(ctx, req.Name, req.ID)
			if errors.Is(err, volumes.ErrNotFound) {
				err = nil // it is not mounted
			}
			return struct{}{}, err
		},
		"Path": func(ctx context.Context, s Store, req request) (any, error) {
			v, err := s.Get(ctx, req.Name)
			if err != nil {
				return nil, err
			}
			dir, err := s.Mountpoint(v)
			return volume.PathResponse{Mountpoint: dir}, err
		},
		"Get":  get,
		"List": list,
	}
}

func get(ctx context.Context, s Store, req request) (any, error) {
	st, err := s.Inspect(ctx, req.Name)
	if err != nil {
		return nil, err
	}
	return volume.GetResponse{Volume: &volume.Volume{
		Name: st.Name, CreatedAt: st.Created.Format(time.RFC3339), Status: statusOf(st),
	}}, nil
}

// statusOf is what docker volume inspect shows.
func statusOf(st volumes.Status) map[string]any {
	out := map[string]any{
		"State": st.State, "UUID": st.UUID, "Generation": json.Number(itoa(st.Generation)), "Persistence": string(st.Options.Persistence),
	}
	for key, value := range map[string]string{
		"Reason": st.Reason, "Tier": string(st.Options.Tier), "Disk": st.Options.Disk, "Platform": st.Options.Platform, "Revision": st.Options.Revision,
	} {
		if value != "" {
			out[key] = value
		}
	}
	for key, n := range map[string]int64{"Sector": int64(st.Options.Sector), "Inodes": st.Options.Inodes} {
		if n != 0 {
			out[key] = json.Number(itoa(n))
		}
	}
	if st.Size > 0 {
		out["Size"] = json.Number(itoa(st.Size))
		out["OnDisk"] = json.Number(itoa(st.Disk))
	}
	if len(st.Host) > 0 {
		out["HostMounts"] = st.Host
	}
	return out
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// list leaves out what docker cannot speak of: superseded generations, damaged volumes of
// unknown names, and what was refused a name that is another's. A damaged volume that its
// tier's list knows is shown: it is there, and docker may remove it. layervault volume list
// shows all.
func list(ctx context.Context, s Store, _ request) (any, error) {
	vs, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	res := volume.ListResponse{Volumes: []*volume.Volume{}}
	for _, v := range vs {
		if v.Superseded || v.Damage != nil && (!v.Listed || v.Name == "") {
			continue
		}
		dir := ""
		if v.Damage == nil {
			if dir, err = s.Mountpoint(v); err != nil {
				return nil, err
			}
		}
		res.Volumes = append(res.Volumes, &volume.Volume{Name: v.Name, Mountpoint: dir, CreatedAt: v.Created.Format(time.RFC3339)})
	}
	return res, nil
}
