package disk

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// Tools are how keys of the kernel and of vendors are reached.
type Tools struct {
	// TrustedType is the kernel's key type of trusted keys: "trusted".
	TrustedType string
	// NewTrusted is what a new one is made with: "new 32".
	NewTrusted string
	// LoadTrusted comes before a blob: "load ".
	LoadTrusted string
	// CAAMKeygen and CAAMFolder: NXP's program, and where it leaves what it made.
	CAAMKeygen, CAAMFolder string
	// DCPTool is Pantavisor's x--pv-dcp-tool; DCPBlob its dcp-blob-create.
	DCPTool, DCPBlob string
}

func (t *Tools) fill() {
	for _, f := range []struct {
		to  *string
		def string
	}{
		{&t.TrustedType, "trusted"}, {&t.NewTrusted, "new 32"}, {&t.LoadTrusted, "load "}, {&t.CAAMKeygen, "caam-keygen"},
		{&t.CAAMFolder, "/data/caam"}, {&t.DCPTool, "x--pv-dcp-tool"}, {&t.DCPBlob, "dcp-blob-create"},
	} {
		if *f.to == "" {
			*f.to = f.def
		}
	}
}

// run runs a key tool in the disk's folder. Keys go by its pipes.
func (d *plainDisk) run(ctx context.Context, stdin []byte, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = d.Dir
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		clear(out)
		return nil, fmt.Errorf("%w: %s: %w: %s", ErrTool, strings.Join(append([]string{name}, args...), " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}
