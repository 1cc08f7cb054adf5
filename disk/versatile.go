package disk

import (
	"context"
	"crypto/rand"
	"os"

	"layervault/crypt"
)

// Versatile is plain dm-crypt, its key a file beside the image.
const Versatile Type = "dm-crypt-versatile"

// versatile is the type of disks whose key lies beside the image: <key>.txt, 32 random
// bytes in the clear.
type versatile struct{}

func (versatile) keys() []string { return []string{"mode"} }

// read passes over the mode, as Pantavisor does.
func (versatile) read(e diskEntry, _ *Disk) error {
	_, err := e.text("mode")
	return err
}

func (versatile) least() int64 { return keySize }

func (versatile) cipher(Disk) string { return "aes-cbc-essiv:sha256" }

func (versatile) keyFile(d Disk) string { return d.file(rawSuffix) }

func (versatile) newKey(context.Context, *plainDisk) ([]byte, error) {
	raw := make([]byte, keySize)
	_, _ = rand.Read(raw) // it ends the program rather than fail
	return raw, nil
}

func (versatile) loadKey(_ context.Context, _ *plainDisk, file string, key *crypt.KernelKey) (err error) {
	key.Payload, err = os.ReadFile(file)
	return err
}
