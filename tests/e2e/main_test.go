//go:build guest

package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"layervault/tests/e2e/sample"
	"layervault/tests/e2e/treesum"
)

// TestMain makes this binary serve as the sessions' small tools too: it is
// static, so a container can run it whatever its image holds.
func TestMain(m *testing.M) {
	testscript.Main(engines{m}, map[string]func(){
		"treesum":      func() { tool(treeSum) },
		"tarsum":       func() { tool(tarSum) },
		"oddtree":      func() { tool(func([]string) error { return sample.Odd(os.Stdout) }) },
		"layeredimage": func() { tool(layeredImage) },
		"noiseimage":   func() { tool(noiseImage) },
		"keyservice":   func() { tool(keyService) },
	})
}

// engines stops what the tests started, whatever they did.
type engines struct{ m *testing.M }

func (e engines) Run() int {
	code := e.m.Run()
	if err := plain.Stop(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: stopping the second engine:", err)
		code = max(code, 1)
	}
	return code
}

// driver is the storage driver under test.
func driver() string {
	if d := os.Getenv("E2E_DRIVER"); d != "" {
		return d
	}
	return "layervault"
}

// docker29 says whether the engine under test is Docker 29, whose layers are containerd's
// snapshots (tests/guest/bin/start-docker29).
func docker29() bool { return os.Getenv("E2E_ENGINE") == "29" }

func encrypted() bool { return driver() != "overlay2" }

func tool(f func(args []string) error) {
	if err := f(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// treeSum: treesum DIR.
func treeSum(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: treesum DIR")
	}
	t, err := treesum.FromDir(args[0])
	if err != nil {
		return err
	}
	return t.Write(os.Stdout)
}

// tarSum: tarsum < TAR.
func tarSum([]string) error {
	t, err := treesum.FromTar(os.Stdin)
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	return t.Write(os.Stdout)
}

// layeredImage: layeredimage TAG N > IMAGE.
func layeredImage(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("usage: layeredimage TAG LAYERS")
	}
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	return sample.Layered(os.Stdout, args[0], n)
}

// noiseImage: noiseimage TAG [SIZE] > IMAGE. On busybox: odd files, and 3 MB, or another size in
// bytes, that no other image has.
func noiseImage(args []string) error {
	size := 3_000_000
	switch len(args) {
	case 1:
	case 2:
		var err error
		if size, err = strconv.Atoi(args[1]); err != nil {
			return err
		}
	default:
		return fmt.Errorf("usage: noiseimage TAG [SIZE]")
	}
	base, err := os.ReadFile("/usr/share/layervault-guest/busybox.tar")
	if err != nil {
		return err
	}
	var odd, top bytes.Buffer
	if err := sample.Odd(&odd); err != nil {
		return err
	}
	noise := make([]byte, size)
	_, _ = rand.Read(noise) // documented to return no error
	w := tar.NewWriter(&top)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "noise", Mode: 0o644, Size: int64(len(noise))}); err != nil {
		return err
	}
	if _, err := w.Write(noise); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return sample.Image(os.Stdout, args[0], [][]byte{base, odd.Bytes(), top.Bytes()})
}
