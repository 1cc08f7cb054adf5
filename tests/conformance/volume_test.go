package conformance

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/pkg/plugingetter"
	"github.com/docker/docker/pkg/plugins"
	"github.com/docker/docker/volume/drivers"

	"layervault/persist"
	"layervault/plugin/socket"
	door "layervault/plugin/volume"
	"layervault/volume"
	"layervault/volume/volumetest"
)

// volumePlugin is what docker's plugin store would say of a managed plugin that serves
// volumes: paths are seen from outside its root file system.
type volumePlugin struct{ client *plugins.Client }

func (p volumePlugin) Name() string                  { return "layervault" }
func (p volumePlugin) ScopedPath(path string) string { return "/outside" + path }
func (p volumePlugin) IsV1() bool                    { return false }
func (p volumePlugin) Client() *plugins.Client       { return p.client }

func (p volumePlugin) Get(string, string, int) (plugingetter.CompatPlugin, error) { return p, nil }
func (p volumePlugin) GetAllByCap(string) ([]plugingetter.CompatPlugin, error)    { return nil, nil }
func (p volumePlugin) GetAllManagedPluginsByCap(string) []plugingetter.CompatPlugin {
	return nil
}
func (p volumePlugin) Handle(string, func(string, *plugins.Client)) {}

// Docker's own client of volume plugins against the real door.
func TestVolumeWire(t *testing.T) {
	dir := t.TempDir()
	store, err := volume.Open(t.Context(), volume.Config{
		Layout: persist.Layout{Root: dir + "/persist"}, Mounts: dir + "/mounts", Scratch: dir + "/scratch",
		Keys: volumetest.OpenKeys, Devices: volumetest.Devices(volumetest.OpenKeys),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	front := door.New(slog.New(slog.DiscardHandler), nil)
	front.Open(store)
	path := filepath.Join(dir, "v.sock")
	ctx, stop := context.WithCancel(context.Background())
	l, err := socket.Listen(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- socket.Serve(ctx, l, time.Minute, front) }()
	defer func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	client, err := plugins.NewClient("unix://"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := drivers.NewStore(volumePlugin{client}).GetDriver("layervault")
	if err != nil {
		t.Fatal(err)
	}
	if d.Scope() != "local" {
		t.Errorf("scope %q", d.Scope())
	}
	if _, err := d.Get("vol"); err == nil {
		t.Error("a volume that nobody made")
	}
	if _, err := d.Create("vol", map[string]string{"colour": "blue"}); err == nil || !strings.Contains(err.Error(), "known options: cipher") {
		t.Errorf("an unknown option: %v", err)
	}
	v, err := d.Create("vol", map[string]string{"size": "32M"})
	if err != nil {
		t.Fatal(err)
	}
	first, err := v.Mount("one")
	if err != nil || !strings.HasPrefix(first, "/outside"+dir) {
		t.Fatalf("mounted at %q, %v", first, err)
	}
	inside := strings.TrimPrefix(first, "/outside")
	if err := os.WriteFile(filepath.Join(inside, "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	// Found again, as after a restart of dockerd, docker must know the path from outside.
	again, err := d.Get("vol")
	if err != nil {
		t.Fatal(err)
	}
	if again.Path() != first {
		t.Errorf("found at %q, mounted at %q", again.Path(), first)
	}
	if status := again.Status(); status["State"] != "mounted" || status["Tier"] != "vault" {
		t.Errorf("status %v", status)
	}
	if at, err := again.Mount("two"); err != nil || at != first {
		t.Errorf("mounted at %q, %v", at, err)
	}
	list, err := d.List()
	if err != nil || len(list) != 1 || list[0].Name() != "vol" || list[0].Path() != first {
		t.Errorf("listed %v, %v", list, err)
	}
	for _, id := range []string{"one", "two"} {
		if _, err := os.Stat(filepath.Join(inside, "file")); err != nil {
			t.Error(err)
		}
		if err := v.Unmount(id); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(inside); !os.IsNotExist(err) {
		t.Errorf("after the last unmount: %v", err)
	}
	if created, err := again.CreatedAt(); err != nil || created.IsZero() {
		t.Errorf("created %v, %v", created, err)
	}
	if err := d.Remove(v); err != nil {
		t.Error(err)
	}
	if list, err := d.List(); err != nil || len(list) != 0 {
		t.Errorf("listed %v, %v", list, err)
	}
}
