//go:build guest

package crypt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"layervault/crypt"
	"layervault/crypt/dm"
)

// helperEnv makes this program do one operation on one image instead of testing:
// "operation path mountpoint".
const helperEnv = "CRYPT_TEST_HELPER"

func TestMain(m *testing.M) {
	if job := os.Getenv(helperEnv); job != "" {
		if err := helper(job); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func helper(job string) error {
	part := strings.Fields(job)
	d := &testImage{Image: crypt.Image{Path: part[1], Key: passphrase, Owner: owner, ReadOnly: readOnly}, mnt: part[2]}
	ctx := context.Background()
	body, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	fmt.Println("begin")
	switch part[0] {
	case "create":
		d.ReadOnly = writable
		return d.create(ctx, 1<<30)
	case "import":
		_, err := d.load(ctx, bytes.NewReader(body))
		return err
	case "get":
		for {
			if err := errors.Join(d.get(ctx), d.put()); err != nil {
				return err
			}
		}
	}
	return errors.ErrUnsupported
}

// A process that is killed at any moment leaves an image that is whole, or none; and
// after a sweep no file, no device and no loop device.
func TestKill(t *testing.T) {
	body := layerTar(t, map[string]string{"f": strings.Repeat("0123456789abcdef", 1<<17)})
	for _, operation := range []string{"create", "import", "get"} {
		t.Run(operation, func(t *testing.T) {
			outcome, whole := map[string]int{}, time.Hour
			if operation == "get" {
				whole = 2 * time.Second // it goes on until it is killed
			}
			for i := range 12 {
				d := device(t, readOnly)
				if operation == "create" {
					d.ReadOnly = writable
				}
				if operation == "get" {
					_, err := d.load(t.Context(), bytes.NewReader(body))
					must(t, err)
				}
				if i > 0 || operation == "get" {
					killed(t, d, operation, body, rand.N(whole*5/4))
				} else { // not killed, to learn how long it takes
					whole = killed(t, d, operation, body, whole)
				}
				must(t, crypt.Sweep(t.Context()))
				swept(t, d)
				must(t, d.put()) // what was mounted at that moment
				noneLeft(t)
				err := d.get(t.Context())
				switch {
				case err == nil:
					outcome["whole"]++
					if _, err := os.Stat(filepath.Join(d.mnt, "diff")); err != nil {
						t.Error(err)
					}
					must(t, d.put())
				case operation != "get" && errors.Is(err, crypt.ErrNotExist):
					outcome["none"]++
				default:
					t.Fatal(err)
				}
				noneLeft(t)
			}
			t.Log(outcome)
		})
	}
}

// killed runs the helper, kills it some time after it began, and returns how long it
// lived since.
func killed(t *testing.T, d *testImage, operation string, body []byte, after time.Duration) (took time.Duration) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %s", helperEnv, operation, d.Path, d.mnt))
	cmd.Stdin = bytes.NewReader(body)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	_, err = io.ReadFull(out, make([]byte, len("begin\n")))
	must(t, err)
	began := time.Now()
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	_ = cmd.Wait()
	return time.Since(began)
}

// swept sweeps until nothing but the image is there. A program that was being started at
// the moment of the kill has the file, and its lock, until it is executed.
func swept(t *testing.T, d *testImage) {
	t.Helper()
	dir := filepath.Dir(d.Path)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		must(t, crypt.SweepDir(t.Context(), dir))
		left, err := filepath.Glob(filepath.Join(dir, ".*.tmp-*"))
		must(t, err)
		if len(left) == 0 || time.Now().After(deadline) {
			break
		}
	}
	onlyImage(t, d)
}

// noneLeft waits until the kernel has no device of ours.
func noneLeft(t *testing.T) {
	t.Helper()
	control, err := dm.Open()
	must(t, err)
	defer func() { _ = control.Close() }()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left := ""
		names, err := control.List()
		must(t, err)
		for _, n := range names {
			if strings.HasPrefix(n.Name, "layervault-") {
				left += n.Name + " "
			}
		}
		files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
		for _, f := range files {
			if b, _ := os.ReadFile(f); bytes.Contains(b, []byte("image.luks")) {
				left += string(b)
			}
		}
		if left == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left: %s", left)
		}
	}
}
