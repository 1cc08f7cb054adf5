package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"layervault/crypt"
)

// oneTurn is how long a fio job runs, in seconds. A machine's speed wanders by a fifth
// within some seconds, so what is compared takes turns at short intervals, many of them.
const oneTurn = "--runtime=1"

// fioJobs are the patterns: streams as a copy or a backup does them, 4 KiB at
// random as a database does, all past the page cache, so that the layers below
// it are what is measured; and buffered writes with the final fsync, which is counted in.
var fioJobs = []struct {
	name string
	args []string
}{
	{"sequential read", []string{"--rw=read", "--bs=1M", "--direct=1", "--time_based", oneTurn}},
	{"sequential write", []string{"--rw=write", "--bs=1M", "--direct=1", "--time_based", oneTurn}},
	{"random read 4k", []string{"--rw=randread", "--bs=4k", "--direct=1", "--time_based", oneTurn}},
	{"random write 4k", []string{"--rw=randwrite", "--bs=4k", "--direct=1", "--time_based", oneTurn}},
	{"buffered write", []string{"--rw=write", "--bs=64k", "--end_fsync=1"}},
}

const (
	fioName = "bench-fio" // the container that fio runs in
	// sharedDir is seen by that container at sharedThere, with what is mounted in it while
	// the container runs.
	sharedDir   = "/run/bench-shared"
	sharedThere = "/bench-shared"
)

// filePairs compares fio on a container's writable layer with fio, in the same container,
// on the file system that holds that layer.
func (b *bench) filePairs(ctx context.Context) error {
	return b.fioContainers(ctx, nil, func() error {
		uuid, err := dockerOn(ctx, b.mainHost, "inspect", "--format", `{{index .GraphDriver.Data "LUKSUUID"}}`, fioName)
		if err != nil {
			return err
		}
		return b.fioPairs(ctx, "files in a container", "/bench-file", uuid, "overlay2, not encrypted")
	})
}

// volumePairs compares fio on a volume with fio, in the same container, on the file
// system of that volume's image.
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
	}
	return b.fioContainers(ctx, []string{"-v", name + ":/volume"}, func() error {
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
		return b.fioPairs(ctx, "files in a volume", "/volume/bench-file", strings.TrimSpace(string(uuid)), "a local volume, not encrypted")
	})
}

// fioContainers calls f while a container to run fio in is there, in either engine.
func (b *bench) fioContainers(ctx context.Context, options []string, f func() error) (err error) {
	if err := os.MkdirAll(sharedDir, 0o700); err != nil {
		return err
	}
	for _, how := range []struct {
		source string
		flags  uintptr
	}{{sharedDir, unix.MS_BIND}, {"", unix.MS_SHARED}} {
		if err := unix.Mount(how.source, sharedDir, "", how.flags, ""); err != nil {
			return fmt.Errorf("share %s: %w", sharedDir, err)
		}
	}
	defer func() { err = errors.Join(err, unix.Unmount(sharedDir, 0)) }()
	for _, host := range []string{b.mainHost, b.plainHost} {
		args := slices.Concat([]string{"run", "-d", "--name", fioName, "--network", "none", "-v", "/usr:/usr:ro",
			"-v", sharedDir + ":" + sharedThere + ":rslave"}, options, []string{"debian", "sleep", "infinity"})
		if _, err := dockerOn(ctx, host, args...); err != nil {
			return err
		}
		defer func() {
			_, rmErr := dockerOn(context.WithoutCancel(ctx), host, "rm", "-f", fioName)
			err = errors.Join(err, rmErr)
		}()
	}
	return f()
}

// fioPairs runs every job on a file as the container sees it, and on the very same file,
// so on the same blocks, by its name on the file system of the image with that UUID,
// mounted once more and seen by the same container: nothing differs but the way to the
// file. Then on a file of that name in the plain engine's container, which shows what the
// whole costs, encryption included.
func (b *bench) fioPairs(ctx context.Context, subject, file, uuid, plainly string) (err error) {
	at := filepath.Join(sharedDir, "fs")
	unmount, err := mountImage(uuid, at)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmount()) }()
	direct := filepath.Join(sharedThere, "fs", crypt.DirDiff, filepath.Base(file))
	for _, job := range fioJobs {
		names := []string{file, direct}
		jobs := slices.Clone(names) // not counted: these lay the file out and fill the caches
		for turn := range b.fioTurns {
			for i := range names {
				jobs = append(jobs, names[place(turn, i, len(names))])
			}
		}
		rates, err := fio(ctx, b.mainHost, job.args, jobs)
		if err != nil {
			return err
		}
		rates = rates[len(names):]
		t := make([][]float64, len(names))
		for turn := range b.fioTurns {
			for i := range names {
				at := place(turn, i, len(names))
				t[at] = append(t[at], rates[turn*len(names)+i])
			}
		}
		plain, err := fio(ctx, b.plainHost, job.args, slices.Repeat([]string{file}, 1+b.repeats))
		if err != nil {
			return err
		}
		title := subject + ", " + job.name
		b.add(pair(title, "MB/s", "the same dm-crypt device", t[0], t[1], 0.97, true),
			apart(title, "MB/s", plainly, t[0], plain[1:]))
	}
	return nil
}

// fio runs a job on each of the files, one after the other, in one docker exec in an
// engine's container, and answers their rates in MB/s (10^6). One exec for each would
// measure that too: for a second after its process has started, the client, dockerd and
// the shim still take the processor from dm-crypt.
func fio(ctx context.Context, host string, job, files []string) ([]float64, error) {
	args := slices.Concat([]string{"exec", fioName, "fio", "--output-format=json", "--size=64M", "--ioengine=psync", "--allow_file_create=1"}, job)
	for i, f := range files {
		args = append(args, fmt.Sprintf("--name=job-%d", i), "--stonewall", "--filename="+f)
	}
	out, err := dockerOn(ctx, host, args...)
	if err != nil {
		return nil, err
	}
	start := strings.IndexByte(out, '{') // warnings may come first
	if start < 0 {
		return nil, fmt.Errorf("fio printed no JSON: %q", out)
	}
	var r struct {
		Jobs []struct {
			Name        string `json:"jobname"`
			Read, Write struct {
				BWBytes float64 `json:"bw_bytes"`
			}
		}
	}
	if err := json.Unmarshal([]byte(out[start:]), &r); err != nil {
		return nil, fmt.Errorf("fio's JSON: %w", err)
	}
	if len(r.Jobs) != len(files) {
		return nil, fmt.Errorf("fio reports %d jobs, want %d", len(r.Jobs), len(files))
	}
	rates := make([]float64, len(files))
	for i, j := range r.Jobs {
		if want := fmt.Sprintf("job-%d", i); j.Name != want {
			return nil, fmt.Errorf("fio reports %s where %s was", j.Name, want)
		}
		if rates[i] = round3((j.Read.BWBytes + j.Write.BWBytes) / 1e6); rates[i] == 0 {
			return nil, fmt.Errorf("fio's %s moved nothing in its time", j.Name)
		}
	}
	return rates, nil
}

// mountImage mounts the file system of an open image a second time, at a folder that it
// makes: the kernel gives the same one, on the same dm-crypt device.
func mountImage(uuid, at string) (unmount func() error, err error) {
	names, err := filepath.Glob("/sys/block/dm-*/dm/name")
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		got, err := os.ReadFile(n)
		if err != nil || strings.TrimSpace(string(got)) != "layervault-"+uuid {
			continue
		}
		dev := "/dev/" + strings.Split(n, "/")[3]
		if err := os.MkdirAll(at, 0o700); err != nil {
			return nil, err
		}
		if err := unix.Mount(dev, at, "ext4", 0, ""); err != nil {
			return nil, fmt.Errorf("mount %s a second time: %w", dev, err)
		}
		return func() error { return unix.Unmount(at, 0) }, nil
	}
	return nil, fmt.Errorf("no dm device for the image %s", uuid)
}
