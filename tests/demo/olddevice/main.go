// Command olddevice makes a small device of EVE's older layout, for make demo-persist, and searches
// a disk.
//
//	olddevice make ROOT MARKER
//	olddevice count DISK MARKER
//
// One VM with a disk, one container, one verified download, and containerd's folder lie below
// ROOT. MARKER is in each of them, as if it were a secret. Names and messages are as in
// docs/persist-upgrade.md. count prints how often a disk, which is a sparse file, has MARKER.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"layervault/convert/evetest"
	"layervault/tests/rawdisk"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "olddevice:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	const words = 3
	switch {
	case len(args) == words && args[0] == "make":
		return makeDevice(args[1], args[2])
	case len(args) == words && args[0] == "count":
		n, err := rawdisk.Count(args[1], args[2])
		fmt.Println(n)
		return err
	}
	return errors.New("usage: olddevice make ROOT MARKER, or olddevice count DISK MARKER")
}

const (
	vmApp, vmVolume               = "11111111-2222-4333-8444-555555555555", "aaaaaaaa-0000-4000-8000-000000000001"
	containerApp, containerVolume = "66666666-7777-4888-8999-000000000000", "bbbbbbbb-0000-4000-8000-000000000002"
	qcow2, container              = 3, 8 // enum Format
)

func makeDevice(root, marker string) error {
	disk := noise(8<<20, marker)
	diskSum, treeSum := sum([]byte("image of the VM")), sum([]byte("image of the container"))
	download := noise(1<<20, marker)
	tree := "runx/pods/prepared/" + treeSum + "-" + containerApp
	files := map[string][]byte{
		"checkpoint/lastconfig":                                                    config(diskSum, treeSum),
		"img/" + diskSum + "-" + vmApp + ".qcow2":                                  disk,
		tree + "/rootfs/etc/hostname":                                              []byte("pump-7\n"),
		tree + "/rootfs/var/lib/recipe":                                            []byte(marker + "\n"),
		tree + "/rootfs/usr/bin/control":                                           noise(300_000, marker),
		"containerd/io.containerd.content.v1/blob":                                 noise(200_000, marker),
		"downloads/appImg.obj/verified/" + strings.ToUpper(sum(download)) + "/app": download,
	}
	for name, content := range files {
		at := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(at, content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// config is a ConfigResponse with the two applications and their volumes.
func config(diskSum, treeSum string) []byte {
	return evetest.Message(1,
		evetest.Message(1, evetest.Text(1, "99999999-0000-4000-8000-000000000000"), evetest.Text(2, "1")),
		app(vmApp, drive(diskSum, qcow2), vmVolume),
		app(containerApp, drive(treeSum, container), containerVolume),
	)
}

func app(id string, drive []byte, volume string) []byte {
	return evetest.Message(4,
		evetest.Message(1, evetest.Text(1, id), evetest.Text(2, "1")), evetest.Text(2, "app"), drive,
		evetest.Message(16, evetest.Text(1, volume)),
	)
}

func drive(sha string, format uint64) []byte {
	return evetest.Message(4, evetest.Message(1, evetest.Text(2, "image"), evetest.Text(3, sha), evetest.Number(4, format)))
}

// noise is content that does not compress, with the marker in its middle.
func noise(n int, marker string) []byte {
	b := make([]byte, n)
	rng := rand.NewChaCha8(sha256.Sum256([]byte(marker)))
	_, _ = rng.Read(b) // never fails
	copy(b[n/2:], marker)
	return b
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}
