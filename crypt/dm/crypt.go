package dm

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// CryptTable describes a dm-crypt device over a part of one block device.
// https://docs.kernel.org/admin-guide/device-mapper/dm-crypt.html
type CryptTable struct {
	Cipher       string // "aes-xts-plain64"
	KeySize      int    // bytes
	IVOffset     uint64 // 512 byte sectors added to each sector's number
	Dev          uint64 // the block device beneath, as unix.Mkdev gives it
	Offset       uint64 // where the data begins on it, in 512 byte sectors
	Length       uint64 // size of the device made, in 512 byte sectors
	SectorSize   int    // bytes of one encryption unit: 512 to 4096
	ReadOnly     bool
	NoWorkqueues bool // encrypt where the request is made, see cryptWithoutWorkqueues
	// NoDiscards blocks discards to the lower device: deleted data still occupies space,
	// and the used blocks are not visible.
	NoDiscards bool
}

// cryptWithoutWorkqueues is the version of the crypt target that first took
// no_read_workqueue and no_write_workqueue (Linux 5.9). Without the hand-over to a
// kernel thread a request takes about half the time.
var cryptWithoutWorkqueues = Version{Major: 1, Minor: 22}

// KeyRef names a key in a keyring of the calling thread, as dm-crypt looks for it.
type KeyRef struct {
	Type        string // "logon", "trusted", "encrypted" or "user"
	Description string // without spaces; a logon key's has a prefix that ends in ":"
}

// keyLogon is the type of keys that dm-crypt may use and no program can read.
const keyLogon = "logon"

// keyTypes are those that dm-crypt takes (encrypted since Linux 5.8, trusted since 5.12).
var keyTypes = []string{keyLogon, "user", "encrypted", "trusted"}

func (k KeyRef) check() error {
	if !slices.Contains(keyTypes, k.Type) {
		return fmt.Errorf("%w: key type %q", ErrBadName, k.Type)
	}
	return checkDescription(k.Description)
}

// target is the line of the table. The key is named, never written: the kernel prints
// tables on request. ErrBadName for a word that would become several.
func (t CryptTable) target(key KeyRef) (Target, error) {
	if err := errors.Join(checkWord("cipher", t.Cipher), key.check()); err != nil {
		return Target{}, err
	}
	var options []string
	if !t.NoDiscards {
		options = append(options, "allow_discards")
	}
	if t.SectorSize != 512 { // the default, unknown as an option before Linux 4.12
		options = append(options, fmt.Sprintf("sector_size:%d", t.SectorSize))
	}
	if t.NoWorkqueues {
		options = append(options, "no_read_workqueue", "no_write_workqueue")
	}
	params := fmt.Sprintf("%s :%d:%s:%s %d %d:%d %d", t.Cipher, t.KeySize, key.Type, key.Description,
		t.IVOffset, unix.Major(t.Dev), unix.Minor(t.Dev), t.Offset)
	if len(options) > 0 {
		params += fmt.Sprintf(" %d %s", len(options), strings.Join(options, " "))
	}
	return Target{Length: t.Length, Type: "crypt", Params: params}, nil
}

// HasCryptWithoutWorkqueues tells whether this kernel's crypt target takes the
// options of NoWorkqueues.
func (c *Control) HasCryptWithoutWorkqueues() bool {
	v, err := c.TargetVersion("crypt")
	return err == nil && v.AtLeast(cryptWithoutWorkqueues.Major, cryptWithoutWorkqueues.Minor)
}

// LoadCrypt loads a crypt table into device name. keyDescription is the name the key
// has in the kernel's keyring while the table is loaded ("layervault:<uuid>"); it
// stays visible in the table. The key itself is there for the length of this call
// only, in the keyring of the one thread that makes it: another process, or another
// thread of this one, cannot name it. dm-crypt keeps a copy of its own.
//
// Where the kernel refuses NoWorkqueues, the table is loaded without.
func (c *Control) LoadCrypt(name string, t CryptTable, keyDescription string, key []byte) error {
	if len(key) != t.KeySize {
		return fmt.Errorf("load crypt table of %s: key has %d bytes, cipher %s needs %d", name, len(key), t.Cipher, t.KeySize)
	}
	if !strings.Contains(keyDescription, ":") {
		return fmt.Errorf("%w: key description %q", ErrBadName, keyDescription) // logon keys must have a prefix
	}
	return c.LoadCryptKernelKey(name, t, KeyRef{Type: keyLogon, Description: keyDescription}, key)
}

// LoadCryptKernelKey is LoadCrypt for a key of any kind: payload is what add_key(2) is
// given, for a trusted key "load" and a blob in hex.
func (c *Control) LoadCryptKernelKey(name string, t CryptTable, key KeyRef, payload []byte) error {
	if err := key.check(); err != nil {
		return err
	}
	return WithKey(key.Type, key.Description, payload, func(int) error { return c.LoadCryptNamed(name, t, key) })
}

// LoadCryptNamed loads a crypt table whose key is in a keyring of the calling thread:
// the caller locks the thread (runtime.LockOSThread) before adding the key. dm-crypt
// keeps a copy of its own, in the kernel: no program ever has the bytes of a trusted or
// encrypted key. ErrNoKey if the key is not found, ErrTarget if this kernel's dm-crypt
// does not accept keys of that type.
//
// Where the kernel refuses NoWorkqueues, the table is loaded without.
func (c *Control) LoadCryptNamed(name string, t CryptTable, key KeyRef) error {
	line, err := t.target(key)
	if err != nil {
		return fmt.Errorf("load crypt table of %s: %w", name, err)
	}
	err = c.Load(name, t.ReadOnly, line)
	if t.NoWorkqueues && errors.Is(err, ErrTarget) {
		t.NoWorkqueues = false
		if line, err = t.target(key); err == nil {
			err = c.Load(name, t.ReadOnly, line)
		}
	}
	return err
}

// WithKey runs f while a key lies in this thread's keyring; f gets its serial number.
// dm-crypt searches the keyrings of the caller, hence the locked thread.
func WithKey(keyType, description string, payload []byte, f func(id int) error) (err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	id, err := unix.AddKey(keyType, description, payload, unix.KEY_SPEC_THREAD_KEYRING)
	if err != nil {
		return fmt.Errorf("add %s key %s to the thread keyring: %w", keyType, description, err)
	}
	defer func() {
		// Invalidating wipes the payload at once; unlinking alone would leave that to the
		// keyring's garbage collector. Either is enough to make it unusable.
		_, invalid := unix.KeyctlInt(unix.KEYCTL_INVALIDATE, id, 0, 0, 0)
		_, unlinked := unix.KeyctlInt(unix.KEYCTL_UNLINK, id, unix.KEY_SPEC_THREAD_KEYRING, 0, 0)
		if invalid != nil && unlinked != nil {
			err = errors.Join(err, fmt.Errorf("drop key %s: %w", description, invalid))
		}
	}()
	return f(id)
}
