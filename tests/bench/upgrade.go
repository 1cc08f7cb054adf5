package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// An older device as eve#2797 had it: 10,000 files of 1.5 GB took seven minutes there, and the
// update failed.
const (
	upgradeFiles = 10_000
	upgradeBytes = 1_500_000_000
)

// Goals of persist upgrade: its time to that of cp -a onto the same encrypted volume, and its
// memory in MiB.
const (
	upgradeGoal       = 3
	upgradeMemoryGoal = 100
)

// upgradePair compares layervault persist upgrade of containerd's folder with cp -a of the same
// folder into the area that it is brought to: the same file system on the same dm-crypt device.
// Caches are empty at the start of both. cp -a is measured twice, at its end and when its files
// are on the disk, because the upgrade answers when they are.
func (b *bench) upgradePair(ctx context.Context) error {
	source := filepath.Join(b.persist, "containerd")
	if err := upgradeTree(source); err != nil {
		return err
	}
	var alone, memory []float64
	plain := func(int) (float64, error) {
		to := filepath.Join(b.persist, "vault/case/plain")
		if err := b.cold(); err != nil {
			return 0, err
		}
		var until float64
		durable, err := timed(func() (err error) {
			until, err = timed(func() error { return exec.CommandContext(ctx, "cp", "-a", source, to).Run() })
			return errors.Join(err, syncDisk(filepath.Dir(to)))
		})
		alone = append(alone, until)
		return durable, errors.Join(err, os.RemoveAll(to))
	}
	ours := func(int) (float64, error) {
		if err := b.cold(); err != nil {
			return 0, err
		}
		cmd := exec.CommandContext(ctx, "layervault", "--persist", b.persist, "persist", "upgrade")
		cmd.Stderr = os.Stderr
		t, err := timed(cmd.Run)
		if err != nil {
			return 0, err
		}
		usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		if !ok {
			return 0, errors.New("the system does not say what memory a process took")
		}
		memory = append(memory, float64(usage.Maxrss)/1024)
		if _, err := os.Stat(filepath.Join(b.persist, "vault/case/containerd/00/00/0000")); err != nil {
			return 0, err
		}
		return t, errors.Join(os.RemoveAll(filepath.Join(b.persist, "vault/case/containerd")), os.RemoveAll(filepath.Join(b.persist, "vault/upgrade")),
			os.Remove(filepath.Join(b.persist, "vault/converted.json")))
	}
	t, err := turns(b.repeats, ours, plain)
	if err != nil {
		return err
	}
	const name = "persist upgrade, 1.5 GB in 10,000 files"
	b.add(pair(name, "s", "cp -a", t[0], alone, upgradeGoal, false), pair(name, "s", "cp -a and sync", t[0], t[1], upgradeGoal, false),
		single("the same, its peak of memory", "MiB", memory, upgradeMemoryGoal))
	return nil
}

// cold writes what waits for the disk, and empties the caches.
func (b *bench) cold() error {
	syscall.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0o600)
}

// upgradeTree makes the files: most of them small, as in a container, and some large.
func upgradeTree(at string) error {
	rng := rand.NewChaCha8(sha256.Sum256([]byte("upgrade")))
	// A hundred sizes, with a mean of 150 kB: 90 of 4 to 32 kB, ten of 1 to 1.8 MB.
	var sizes []int
	total := 0
	for i := range 90 {
		sizes = append(sizes, 4_000+i*311)
	}
	for i := range 10 {
		sizes = append(sizes, 950_000+i*88_000)
	}
	for _, s := range sizes {
		total += s
	}
	scale := float64(upgradeBytes) / float64(total*(upgradeFiles/len(sizes)))
	content := make([]byte, int(float64(sizes[len(sizes)-1])*scale)+1)
	for i := range upgradeFiles {
		dir := filepath.Join(at, fmt.Sprintf("%02d/%02d", i%20, i/20%25))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		part := content[:int(float64(sizes[i%len(sizes)])*scale)]
		_, _ = rng.Read(part) // never fails
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%04d", i)), part, 0o644); err != nil {
			return err
		}
	}
	return nil
}
