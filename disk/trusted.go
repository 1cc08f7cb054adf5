package disk

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"layervault/crypt"
)

// mode reads which kernel a disk's key belongs to.
func (e diskEntry) mode(d *Disk) error {
	text, err := e.text("mode")
	if err != nil {
		return err
	}
	switch d.Mode = Mode(text); d.Mode {
	case Mainline, NXP:
		return nil
	case "":
		d.Mode = NXP
		return nil
	}
	return fmt.Errorf("key mode: %q is neither %s nor %s", d.Mode, Mainline, NXP)
}

// newTrusted has the kernel make a trusted key, and gives its blob.
func (d *plainDisk) newTrusted() ([]byte, error) {
	t := d.set.cfg.Tools
	return crypt.NewKernelKey(crypt.KernelKey{Type: t.TrustedType, Description: logonPrefix + d.Key, Payload: []byte(t.NewTrusted)})
}

// loadTrusted reads the blob of a trusted key.
func (d *plainDisk) loadTrusted(file string, key *crypt.KernelKey) error {
	t := d.set.cfg.Tools
	blob, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	blob, _, _ = bytes.Cut(bytes.TrimSpace(blob), []byte("\n"))
	if !isBlob(string(blob), t.TrustedType) {
		return fmt.Errorf("%w: %s is not a blob in hex", ErrBadKey, file)
	}
	key.Type, key.Payload = t.TrustedType, append([]byte(t.LoadTrusted), blob...)
	return nil
}

// isBlob reports whether a line is what the kernel gave for a key: hex for trusted keys; the
// blobs of encrypted ones begin with words.
func isBlob(line, keyType string) bool {
	if line == "" || len(line) > 4096 {
		return false
	}
	if keyType != "trusted" {
		return !strings.ContainsAny(line, "\x00\r\n")
	}
	_, err := hex.DecodeString(line)
	return err == nil
}
