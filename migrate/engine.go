package migrate

import (
	"context"
	"encoding/json"
	"io"
	"reflect"
	"slices"
	"strings"

	"layervault/migrate/docker"
)

// Engine is a Docker engine, as far as a migration needs it. All methods end with their context.
// docker.Client is one.
type Engine interface {
	Info(ctx context.Context) (docker.Info, error)

	// Images lists the images without their content. Inspect tells of one by a name or ID, with an
	// error that is docker.ErrNotFound if there is none.
	Images(ctx context.Context) ([]docker.Image, error)
	Inspect(ctx context.Context, name string) (docker.Image, error)
	LayersSize(ctx context.Context) (int64, error)

	Containers(ctx context.Context) ([]docker.Container, error)
	Volumes(ctx context.Context) ([]docker.Volume, error)
	Networks(ctx context.Context) (map[string]json.RawMessage, error)

	// Save reads an image as a tar. Load takes one, and nothing of it if reading it fails; it returns
	// the names of what was loaded.
	Save(ctx context.Context, names []string) (io.ReadCloser, error)
	Load(ctx context.Context, tar io.Reader) ([]string, error)
	Pull(ctx context.Context, digest string) error
	Tag(ctx context.Context, id, name string) error
	// Remove takes a name off an image, and fails with docker.ErrConflict where a container needs it.
	Remove(ctx context.Context, name string) error
}

var _ Engine = (*docker.Client)(nil)

// differences names what differs between two contents. The ID is none of it: it is the digest of
// the configuration in one store, and that of a manifest in the other.
func differences(a, b docker.Content) (fields []string) {
	if !slices.Equal(a.Layers, b.Layers) {
		fields = append(fields, "layers")
	}
	x, y := reflect.ValueOf(a.Config), reflect.ValueOf(b.Config)
	for i := range x.NumField() {
		if !reflect.DeepEqual(x.Field(i).Interface(), y.Field(i).Interface()) {
			name, _, _ := strings.Cut(x.Type().Field(i).Tag.Get("json"), ",")
			fields = append(fields, name)
		}
	}
	return fields
}
