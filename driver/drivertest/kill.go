package drivertest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"layervault/driver"
	"layervault/persist"
)

// Environment of the helper process: where its driver lives, and the checkpoint
// ("op/step") at which it kills itself, or "" to work until it is killed.
const (
	envDir  = "LAYERVAULT_DRIVERTEST_DIR"
	envKill = "LAYERVAULT_DRIVERTEST_KILL"
)

// Main is TestMain of a package that runs the suite: in the helper process, which
// is the same binary, it does the helper's work instead. Both have the plugin's capabilities.
func Main(m *testing.M, make Factory) {
	if err := confine(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	dir := os.Getenv(envDir)
	if dir == "" {
		goleak.VerifyTestMain(m)
	}
	if err := help(context.Background(), dir, os.Getenv(envKill), make); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// killLayers is how many layers the helper works on at once.
const killLayers = 4

func helperConfig(dir string, make Factory) driver.Config {
	cfg := driver.Config{
		Layout: persist.Layout{Root: filepath.Join(dir, "persist")}, DefaultSize: defaultSize,
		Scratch: filepath.Join(dir, "scratch"),
		Log:     slog.New(slog.DiscardHandler),
	}
	make(&cfg)
	return cfg
}

func help(ctx context.Context, dir, kill string, make Factory) error {
	cfg := helperConfig(dir, make)
	cfg.Checkpoint = func(op, _, step string) error {
		if op+"/"+step == kill {
			return syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		}
		return nil
	}
	d := driver.New(cfg)
	if err := d.Init(ctx, driver.Options{Home: filepath.Join(dir, "home")}); err != nil {
		return err
	}
	body, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for n := range killLayers {
		g.Go(func() error {
			for round := 0; ; round++ {
				if err := helpRound(ctx, d, fmt.Sprintf("k%d-%d", n, round), body); err != nil {
					return err
				}
				fmt.Println("round")
				if kill != "" && round > 0 {
					return errors.New("the checkpoint was never reached")
				}
			}
		})
	}
	return g.Wait()
}

// helpRound does everything once: an image, a container on it, a commit.
func helpRound(ctx context.Context, d *driver.Driver, id string, body []byte) error {
	rw := id + "-rw"
	if err := d.Create(ctx, id, "done", nil); err != nil {
		return err
	}
	if _, err := d.ApplyDiff(ctx, id, "done", bytes.NewReader(body)); err != nil {
		return err
	}
	if err := d.CreateReadWrite(ctx, rw, id, nil); err != nil {
		return err
	}
	dir, err := d.Get(ctx, rw, "")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), body, 0o644); err != nil {
		return err
	}
	if err := d.Put(ctx, rw); err != nil {
		return err
	}
	fresh := id + "-fresh"
	if err := d.Create(ctx, fresh, id, nil); err != nil {
		return err
	}
	if _, err := d.Get(ctx, fresh, ""); err != nil {
		return err
	}
	if err := d.Put(ctx, fresh); err != nil {
		return err
	}
	if _, err := d.ApplyDiff(ctx, fresh, id, bytes.NewReader(body)); err != nil {
		return err
	}
	return errors.Join(d.Remove(ctx, rw), d.Remove(ctx, fresh), d.Remove(ctx, id))
}

// testKill kills a helper at each checkpoint, and at whatever moment after some
// rounds, and wants a clean restart each time: what was answered for is there,
// what was not is gone or usable, everything can be removed, nothing leaks.
func testKill(t *testing.T, make Factory) {
	// After how many rounds of the helper it is killed where no checkpoint is named.
	rounds := []int{2, 5, 9}
	kills := []string{
		"create/directory made", "create/image made", "create/record written", "create/renamed",
		"import into/image made", "import into/image renamed", "import into/record written",
		"make writable/image made", "make writable/image renamed", "make writable/record written",
		"reset/record written", "remove/renamed", "remove/unlinked",
	}
	for _, n := range rounds {
		kills = append(kills, fmt.Sprintf("%s%d", anyMoment, n))
	}
	for _, kill := range kills {
		t.Run(kill, func(t *testing.T) {
			b := newBench(t, make)
			b.cfg = helperConfig(filepath.Dir(b.persist), make)
			b.home = filepath.Join(filepath.Dir(b.persist), "home")
			b.Driver = driver.New(b.cfg)
			b.init()
			body := makeTar(t, file("file", strings.Repeat("body", 50000)))
			b.apply("done", "", body)
			want := b.diff("done", "")
			b.ok(b.Close(b.ctx))

			runKilled(t, filepath.Dir(b.persist), kill, body)

			b.Driver = driver.New(b.cfg)
			b.ok(b.Resume(b.ctx))
			t.Cleanup(b.removeAll)
			if got := b.diff("done", ""); !bytes.Equal(got, want) {
				t.Error("a committed layer changed")
			}
			s, err := b.Store()
			b.ok(err)
			ids, err := s.IDs()
			b.ok(err)
			for _, id := range ids {
				r, err := s.Get(id)
				b.ok(err)
				t.Logf("left: %s, %s", id, r.Kind)
				b.with(id, func(dir string) {
					if r.Kind == "sealed" {
						wantContent(t, dir, "file", strings.Repeat("body", 50000))
					}
				})
			}
		})
	}
}

// anyMoment before a number of rounds stands for no checkpoint.
const anyMoment = "after rounds "

func runKilled(t *testing.T, dir, kill string, body []byte) {
	t.Helper()
	rounds := 0
	after, any := strings.CutPrefix(kill, anyMoment)
	if any {
		var err error
		if rounds, err = strconv.Atoi(after); err != nil {
			t.Fatal(err)
		}
		kill = ""
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^$")
	cmd.Env = append(os.Environ(), envDir+"="+dir, envKill+"="+kill)
	cmd.Stdin = bytes.NewReader(body)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); rounds-- {
		if kill == "" && rounds <= 0 {
			if err := cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
			break
		}
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the helper ended with %v: %s", err, stderr.String())
	}
}
