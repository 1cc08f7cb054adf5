package convert_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"layervault/convert"
)

// TestMemory converts 10,000 files and a large one, and wants the heap to stay far below
// 100 MiB. BIG in the environment is the size of the tree in MiB (1500 for the real thing), and
// BIGDIR a folder on a real disk; then the time is compared with cp -a, and logged.
func TestMemory(t *testing.T) {
	megabytes := 40
	if text := os.Getenv("BIG"); text != "" {
		var err error
		megabytes, err = strconv.Atoi(text)
		must(t, err)
	}
	d := newDevice(t)
	if dir := os.Getenv("BIGDIR"); dir != "" {
		at, err := os.MkdirTemp(dir, "convert")
		must(t, err)
		t.Cleanup(func() { must(t, os.RemoveAll(at)) })
		for _, a := range []string{"volumes", "clear-volumes", "verifier", "downloader", "case"} {
			must(t, os.MkdirAll(filepath.Join(at, "areas", a), 0o700))
		}
		d.root, d.areas = filepath.Join(at, "persist"), filepath.Join(at, "areas")
		must(t, os.MkdirAll(d.path("vault"), 0o711))
	}
	const files = 10_000
	content := d.random(megabytes << 20 / files * 2)
	for i := range files {
		d.write(fmt.Sprintf("containerd/%02d/%02d/%04d", i%20, i/20%25, i), content[:(i%100)*len(content)/100])
	}
	var high atomic.Uint64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			high.Store(max(high.Load(), m.Sys-m.HeapReleased))
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	plain := copyPlainly(t, d)
	begun := time.Now()
	r, err := d.runBig()
	took := time.Since(begun)
	close(stop)
	<-done
	must(t, err)
	if r.Files < files {
		t.Errorf("%d files", r.Files)
	}
	t.Logf("%d MiB in %s, cp -a and sync took %s: %.2f of it; at most %d MiB of memory", r.Bytes>>20, took, plain, took.Seconds()/plain.Seconds(), high.Load()>>20)
	if high.Load() > 100<<20 && !raceEnabled {
		t.Errorf("%d bytes of memory", high.Load())
	}
}

func (d *device) runBig() (convert.Report, error) {
	return convert.Run(d.t.Context(), d.config())
}

// copyPlainly is the time of cp -a and sync.
func copyPlainly(t *testing.T, d *device) time.Duration {
	to := filepath.Join(d.areas, "plain")
	begun := time.Now()
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", d.path("containerd"), to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.CommandContext(t.Context(), "sync", "-f", to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	took := time.Since(begun)
	must(t, os.RemoveAll(to))
	return took
}
