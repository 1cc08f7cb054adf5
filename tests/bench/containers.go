package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// runPair compares docker run --rm, engine against engine, warm: the image was
// used just before, as it is on a host that starts containers.
func (b *bench) runPair(ctx context.Context) error {
	var ours, other []float64
	for i := range b.runs + 1 {
		for _, e := range []struct {
			host string
			into *[]float64
		}{{b.mainHost, &ours}, {b.plainHost, &other}} {
			t, err := timed(func() error {
				_, err := dockerOn(ctx, e.host, "run", "--rm", "--network", "none", "debian", "true")
				return err
			})
			if err != nil {
				return err
			}
			if i > 0 { // the first fills the caches
				*e.into = append(*e.into, t)
			}
		}
	}
	b.add(pair("docker run --rm", "s", "overlay2", ours, other, 1.15, false))
	return nil
}

// fioJobs are the patterns: streams as a copy or a backup does them, 4 KiB at
// random as a database does, all past the page cache, so that the layers below
// it are what is measured; and buffered writes with the final fsync.
var fioJobs = []struct {
	name string
	args []string
}{
	{"sequential read", []string{"--rw=read", "--bs=1M", "--direct=1"}},
	{"sequential write", []string{"--rw=write", "--bs=1M", "--direct=1"}},
	{"random read 4k", []string{"--rw=randread", "--bs=4k", "--direct=1"}},
	{"random write 4k", []string{"--rw=randwrite", "--bs=4k", "--direct=1"}},
	{"buffered write", []string{"--rw=write", "--bs=64k", "--end_fsync=1"}},
}

// filePairs compares fio in a container with fio on the file system that holds that
// container's layer, which shows what the driver costs, and with fio in a container of
// the plain engine, which shows what the whole costs, encryption included.
func (b *bench) filePairs(ctx context.Context) (err error) {
	const name = "bench-fio"
	for _, host := range []string{b.mainHost, b.plainHost} {
		if _, err := dockerOn(ctx, host, "run", "-d", "--name", name, "--network", "none",
			"-v", "/usr:/usr:ro", "debian", "sleep", "infinity"); err != nil {
			return err
		}
		defer func() {
			_, rmErr := dockerOn(context.WithoutCancel(ctx), host, "rm", "-f", name)
			err = errors.Join(err, rmErr)
		}()
	}
	dir, unmount, err := b.mountLayerOf(ctx, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmount()) }()

	return b.fioPairs(ctx, "files in a container", name, "/bench-file", dir)
}

// fioPairs runs every job on a file in a container, on a file of the same file system
// directly, and on the same file in the plain engine's container of that name.
func (b *bench) fioPairs(ctx context.Context, subject, name, file, dir string) error {
	for _, job := range fioJobs {
		args := append([]string{"--name=bench", "--size=64M", "--runtime=" + b.fioSeconds, "--time_based", "--ioengine=psync",
			"--output-format=json", "--allow_file_create=1"}, job.args...)
		inContainer := func(host string) (string, error) {
			return dockerOn(ctx, host, append([]string{"exec", name, "fio", "--filename=" + file}, args...)...)
		}
		var ours, direct, plain []float64
		for range b.repeats {
			for _, run := range []struct {
				fio  func() (string, error)
				into *[]float64
			}{
				{func() (string, error) { return inContainer(b.mainHost) }, &ours},
				{func() (string, error) {
					out, err := exec.CommandContext(ctx, "fio", append([]string{"--filename=" + filepath.Join(dir, "bench-direct")}, args...)...).Output()
					if err != nil {
						err = fmt.Errorf("fio on the layer's file system: %w", err)
					}
					return string(out), err
				}, &direct},
				{func() (string, error) { return inContainer(b.plainHost) }, &plain},
			} {
				out, err := run.fio()
				if err != nil {
					return err
				}
				rate, err := fioRate(out)
				if err != nil {
					return err
				}
				*run.into = append(*run.into, rate)
			}
		}
		title := subject + ", " + job.name
		b.add(pair(title, "MB/s", "the same dm-crypt device", ours, direct, 0.97, true),
			pair(title, "MB/s", "overlay2, not encrypted", ours, plain, 0, true))
	}
	return nil
}

// mountLayerOf mounts the file system of a container's writable layer a second
// time: the kernel gives the same one, on the same dm-crypt device.
func (b *bench) mountLayerOf(ctx context.Context, container string) (dir string, unmount func() error, err error) {
	uuid, err := dockerOn(ctx, b.mainHost, "inspect", "--format", `{{index .GraphDriver.Data "LUKSUUID"}}`, container)
	if err != nil {
		return "", nil, err
	}
	names, err := filepath.Glob("/sys/block/dm-*/dm/name")
	if err != nil {
		return "", nil, err
	}
	return mountAgain(names, uuid)
}

// mountAgain mounts the file system of an open image a second time.
func mountAgain(names []string, uuid string) (dir string, unmount func() error, err error) {
	for _, n := range names {
		got, err := os.ReadFile(n)
		if err != nil || strings.TrimSpace(string(got)) != "layervault-"+uuid {
			continue
		}
		dev := "/dev/" + strings.Split(n, "/")[3]
		dir := "/run/bench-layer"
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", nil, err
		}
		if err := unix.Mount(dev, dir, "ext4", 0, ""); err != nil {
			return "", nil, fmt.Errorf("mount %s a second time: %w", dev, err)
		}
		return dir, func() error { return unix.Unmount(dir, 0) }, nil
	}
	return "", nil, fmt.Errorf("no dm device for the image %s", uuid)
}

// volumePairs compares fio on a volume in a container with fio on the file system of that
// volume's image, which shows what the volume driver costs, and with fio on a volume of
// docker's own local driver in the plain engine.
func (b *bench) volumePairs(ctx context.Context) (err error) {
	const name = "bench-volume"
	for host, options := range map[string][]string{
		b.mainHost: {"-d", "layervault", "-o", "size=2G"}, b.plainHost: nil,
	} {
		if _, err := dockerOn(ctx, host, append(append([]string{"volume", "create"}, options...), name)...); err != nil {
			return err
		}
		defer func() {
			_, rmErr := dockerOn(context.WithoutCancel(ctx), host, "volume", "rm", name)
			err = errors.Join(err, rmErr)
		}()
		if _, err := dockerOn(ctx, host, "run", "-d", "--name", name, "--network", "none",
			"-v", "/usr:/usr:ro", "-v", name+":/volume", "debian", "sleep", "infinity"); err != nil {
			return err
		}
		defer func() {
			_, rmErr := dockerOn(context.WithoutCancel(ctx), host, "rm", "-f", name)
			err = errors.Join(err, rmErr)
		}()
	}
	out, err := exec.CommandContext(ctx, "layervault", "volume", "show", "--json", name).Output()
	if err != nil {
		return fmt.Errorf("layervault volume show: %w", err)
	}
	var shown struct{ Path string }
	if err := json.Unmarshal(out, &shown); err != nil {
		return fmt.Errorf("layervault volume show: %w", err)
	}
	uuid, err := exec.CommandContext(ctx, "cryptsetup", "luksUUID", shown.Path).Output()
	if err != nil {
		return fmt.Errorf("cryptsetup luksUUID: %w", err)
	}
	names, err := filepath.Glob("/sys/block/dm-*/dm/name")
	if err != nil {
		return err
	}
	dir, unmount, err := mountAgain(names, strings.TrimSpace(string(uuid)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmount()) }()
	return b.fioPairs(ctx, "files in a volume", name, "/volume/bench-file", dir)
}

// fioRate is the bandwidth of fio's only job, MB/s (10^6).
func fioRate(out string) (float64, error) {
	start := strings.IndexByte(out, '{') // warnings may come first
	if start < 0 {
		return 0, fmt.Errorf("fio printed no JSON: %q", out)
	}
	var r struct {
		Jobs []struct {
			Read, Write struct {
				BWBytes float64 `json:"bw_bytes"`
			}
		}
	}
	if err := json.Unmarshal([]byte(out[start:]), &r); err != nil {
		return 0, fmt.Errorf("fio's JSON: %w", err)
	}
	if len(r.Jobs) != 1 {
		return 0, fmt.Errorf("fio reports %d jobs, want 1", len(r.Jobs))
	}
	return round3((r.Jobs[0].Read.BWBytes + r.Jobs[0].Write.BWBytes) / 1e6), nil
}

func dockerOn(ctx context.Context, host string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "docker", append([]string{"-H", host}, args...)...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimSpace(string(out)), nil
}
