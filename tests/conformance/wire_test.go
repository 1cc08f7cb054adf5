//go:build guest

package conformance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/docker/docker/daemon/graphdriver"
	"github.com/docker/docker/pkg/idtools"
	"github.com/docker/docker/pkg/plugingetter"
	"github.com/docker/docker/pkg/plugins"

	"layervault/crypt"
	"layervault/driver"
	"layervault/keys"
	"layervault/keys/unlock"
	"layervault/persist"
	"layervault/plugin/graph"
	"layervault/plugin/socket"
)

// driverName is what graphtest asks docker for: wire is the plugin behind docker's
// own proxy.
const driverName = "wire"

// The suite makes its driver by name through docker's registry of drivers, so
// the plugin has to be reachable from there.
func TestMain(m *testing.M) {
	os.Exit(func() int {
		var started []*plugin
		err := graphdriver.Register(driverName, func(root string, options []string, ids idtools.IdentityMapping) (graphdriver.Driver, error) {
			p, err := startPlugin(root)
			if err != nil {
				return nil, err
			}
			started = append(started, p)
			return graphdriver.GetDriver("layervault", p, graphdriver.Options{
				Root: root, DriverOptions: options, IDMap: ids, ExperimentalEnabled: true,
			})
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		status := m.Run()
		for _, p := range started {
			if err := p.stop(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				status = 1
			}
		}
		return status
	}())
}

// plugin is the real server with the real driver on a real vault, in this
// process, and what docker's plugin store would say of it.
type plugin struct {
	client  *plugins.Client
	driver  *driver.Driver
	persist string
	cancel  context.CancelFunc
	served  chan error
}

// newVault is the open tier of a vault that has never held anything of an older format.
type newVault struct{ *keys.TierKey }

func (newVault) Floor() int { return 2 }

// keyProvider is how the vault opens: LAYERVAULT_TEST_KEY=tpm where there is one.
func keyProvider() string {
	if name := os.Getenv("LAYERVAULT_TEST_KEY"); name != "" {
		return name
	}
	return "versatile"
}

func startPlugin(root string) (*plugin, error) {
	// The images need a disk, which the folder graphtest makes in /tmp may not be on.
	persistDir, err := os.MkdirTemp("/persist", "conformance-")
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	layout := persist.Layout{Root: persistDir}
	p := &plugin{persist: persistDir, served: make(chan error, 1)}
	p.driver = driver.New(driver.Config{
		Layout: layout,
		Unlock: func(ctx context.Context) (crypt.KeySource, error) {
			key, _, err := unlock.OpenOrCreate(ctx, unlock.Config{Tier: layout.Tier(persist.Vault), Provider: keyProvider(), Set: keys.Values{"allow-zero-pcrs": "true"}, Log: log})
			return newVault{key}, err
		},
		Scratch: filepath.Join(persistDir, "scratch"),
		Log:     log,
	})
	front := graph.New(log, nil)
	front.Open(p.driver)

	var ctx context.Context
	ctx, p.cancel = context.WithCancel(context.Background())
	path := filepath.Join(persistDir, "l.sock")
	l, err := socket.Listen(ctx, path)
	if err != nil {
		return nil, err
	}
	go func() { p.served <- socket.Serve(ctx, l, time.Minute, front) }()
	p.client, err = plugins.NewClient("unix://"+path, nil)
	return p, err
}

// stop ends the server and removes the vault; what it leaves behind is a failure.
func (p *plugin) stop() error {
	p.cancel()
	err := errors.Join(<-p.served, p.driver.Close(context.Background()))
	return errors.Join(err, os.RemoveAll(p.persist))
}

// The rest makes a plugin what docker's graphdriver package looks up.

func (p *plugin) Name() string                  { return "layervault" }
func (p *plugin) ScopedPath(path string) string { return path }
func (p *plugin) IsV1() bool                    { return true }
func (p *plugin) Client() *plugins.Client       { return p.client }

func (p *plugin) Get(string, string, int) (plugingetter.CompatPlugin, error) { return p, nil }
func (p *plugin) GetAllByCap(string) ([]plugingetter.CompatPlugin, error)    { return nil, nil }
func (p *plugin) GetAllManagedPluginsByCap(string) []plugingetter.CompatPlugin {
	return nil
}
func (p *plugin) Handle(string, func(string, *plugins.Client)) {}
