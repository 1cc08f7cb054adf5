package layertar_test

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"layervault/crypt/erofs"
	"layervault/crypt/ext4"
	"layervault/crypt/layertar"
)

// Constants of package layertar, as the tar's format and OCI's specification have them.
const (
	whiteoutPrefix = ".wh."
	opaqueMark     = ".wh..wh..opq"
	paxXattr       = "SCHILY.xattr."
	tarBlock       = 512
)

// format is a file system that a tar can be written as.
type format struct {
	name    string // for mount
	fromTar func(context.Context, io.Reader, io.WriterAt, layertar.Options) (layertar.Result, error)
	check   func(path string) error // looks for any fault
}

var formats = []format{
	{"erofs", erofs.FromTar, checkEROFS},
	{"ext4", ext4.FromTar, func(path string) error { return silent("e2fsck", "-fn", path) }},
}

// eachFormat runs a test for each.
func eachFormat(t *testing.T, test func(*testing.T, format)) {
	for _, fs := range formats {
		t.Run(fs.name, func(t *testing.T) { test(t, fs) })
	}
}

func formatOf(name string) format {
	for _, fs := range formats {
		if fs.name == name {
			return fs
		}
	}
	panic("no format " + name)
}

// silent runs a program that is content; its words are the error else.
func silent(command string, args ...string) error {
	out, err := exec.Command(command, args...).CombinedOutput()
	if err != nil {
		return errors.Join(err, errors.New(strings.TrimSpace(string(out))))
	}
	return nil
}

// checkEROFS wants fsck.erofs to say nothing at all: it warns of what it takes for odd.
func checkEROFS(path string) error {
	out, err := exec.Command("fsck.erofs", "--extract", path).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err == nil && text != "" && text != "No errors found" {
		err = errors.New("not silent")
	}
	if err != nil {
		return errors.Join(err, errors.New(text))
	}
	return nil
}
