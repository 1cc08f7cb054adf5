package trusted

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"

	"layervault/crypt/dm"
)

// linux is the kernel that runs.
type linux struct{}

// description is the name of our keys in the thread's keyring and in the dm table. Every
// thread has a keyring of its own, so one name does for all.
const description = "layervault:trusted"

func (linux) seal(ctx context.Context, src Source, c cipher, sector []byte) (sealed string, err error) {
	err = onThread(func() error {
		if src.kind == kindTagged {
			var key []byte
			if key, sealed, err = createTagged(c.key); err != nil {
				return err
			}
			return encryptSector(ctx, c, sector, payload(key))
		}
		sealed, err = withKey(src, newPayload(src, c), func(key dm.KeyRef) error {
			return encryptSector(ctx, c, sector, named(key))
		})
		return err
	})
	return sealed, err
}

func (linux) open(ctx context.Context, src Source, c cipher, sealed string, sector []byte) error {
	return onThread(func() error {
		if src.kind == kindTagged {
			key, err := importTagged(sealed, c.key)
			if err != nil {
				return err
			}
			return decryptSector(ctx, c, sector, payload(key))
		}
		_, err := withKey(src, loadPayload(src, sealed), func(key dm.KeyRef) error {
			return decryptSector(ctx, c, sector, named(key))
		})
		return err
	})
}

// onThread keeps fn on one thread: keys lie in the thread's keyring, which no other
// thread or process can search.
func onThread(fn func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return fn()
}

func newPayload(src Source, c cipher) string {
	if src.kind == kindEncrypted {
		return fmt.Sprintf("new default %s %d", src.master, c.key)
	}
	return fmt.Sprintf("new %d", c.key) + options(src)
}

func loadPayload(src Source, sealed string) string { return "load " + sealed + options(src) }

func options(src Source) string {
	if src.kind == kindTPM {
		return fmt.Sprintf(" keyhandle=%#x", src.handle)
	}
	return ""
}

// maxRead is room for any sealed key as keyctl(2) gives it; see maxSealed.
const maxRead = maxSealed

// withKey adds a trusted or encrypted key to the thread's keyring for the time of fn. It
// returns the key's sealed form.
func withKey(src Source, payload string, fn func(dm.KeyRef) error) (sealed string, err error) {
	if src.kind == kindEncrypted {
		// Its master key is looked for in our keyrings. A managed plugin has a session
		// keyring of its own, to which root's is not linked.
		unlink, err := linkUserKeyring()
		if err != nil {
			return "", err
		}
		defer unlink()
	}
	id, err := unix.AddKey(src.keyType(), description, []byte(payload), unix.KEY_SPEC_THREAD_KEYRING)
	if err != nil {
		return "", explain(src, payload, err)
	}
	defer func() {
		_, invalid := unix.KeyctlInt(unix.KEYCTL_INVALIDATE, id, 0, 0, 0)
		_, unlinked := unix.KeyctlInt(unix.KEYCTL_UNLINK, id, unix.KEY_SPEC_THREAD_KEYRING, 0, 0)
		if invalid != nil && unlinked != nil {
			err = errors.Join(err, fmt.Errorf("remove key %s from the thread keyring: %w", description, unlinked))
		}
	}()
	buf := make([]byte, maxRead)
	n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, id, buf, 0)
	if err != nil {
		return "", explain(src, payload, err) // of an encrypted key, the master key is first wanted here
	}
	if n > len(buf) {
		return "", fmt.Errorf("%w: sealed %s key has %d bytes, limit is %d", ErrNoTrusted, src.keyType(), n, len(buf))
	}
	return string(buf[:n]), fn(dm.KeyRef{Type: src.keyType(), Description: description})
}

func linkUserKeyring() (unlink func(), err error) {
	if _, err := unix.KeyctlInt(unix.KEYCTL_LINK, unix.KEY_SPEC_USER_KEYRING, unix.KEY_SPEC_THREAD_KEYRING, 0, 0); err != nil {
		return nil, fmt.Errorf("search root's keyring: %w", err)
	}
	return func() {
		// Should it fail, the thread's keyring ends with the thread.
		_, _ = unix.KeyctlInt(unix.KEYCTL_UNLINK, unix.KEY_SPEC_USER_KEYRING, unix.KEY_SPEC_THREAD_KEYRING, 0, 0)
	}, nil
}

// explain turns what add_key(2) says into what is wrong. It has few words for much.
func explain(src Source, payload string, errno error) error {
	switch {
	case errors.Is(errno, unix.ENODEV) && src.kind == kindEncrypted:
		return fmt.Errorf("%w: kernel built without CONFIG_ENCRYPTED_KEYS: %w", ErrNoTrusted, errno)
	case errors.Is(errno, unix.ENODEV):
		return &KernelError{Source: src.kind, Why: "kernel built without CONFIG_TRUSTED_KEYS, or module not loaded, or no " + src.kind + " found", Err: errno}
	case errors.Is(errno, unix.ENOKEY) && src.kind == kindEncrypted:
		return fmt.Errorf("%w: master key %s is not in root's keyring, a boot service must add it: %w",
			ErrOtherChip, src.master, errno)
	case errors.Is(errno, unix.EDQUOT):
		return fmt.Errorf("add a %s key: key quota of the user is full (/proc/sys/kernel/keys): %w", src.keyType(), errno)
	case errors.Is(errno, unix.ENOMEM):
		return fmt.Errorf("add a %s key: %w", src.keyType(), errno)
	case payload[0] == 'l' && src.kind == kindEncrypted:
		return fmt.Errorf("%w: master key %s differs from the one at enrolment: %w", ErrOtherChip, src.master, errno)
	case payload[0] == 'l':
		return fmt.Errorf("%w: sealed by another %s, chip was cleared, or kernel uses another trusted key source: %w",
			ErrOtherChip, src.kind, errno)
	case src.kind == kindTPM:
		return &KernelError{Source: src.kind, StorageKey: uint32(src.handle), Why: fmt.Sprintf("TPM refused, storage key %#x may be missing", src.handle), Err: errno}
	}
	return fmt.Errorf("%w: %s refused a new key: %w", ErrNoTrusted, src, errno)
}

// Available says whether the kernel makes keys of the source's type, without making one.
// A chip that then refuses is found out by Wrap. Error: ErrNoTrusted.
func Available(src Source) error {
	if src.kind == kindTagged {
		return taggedAvailable()
	}
	return onThread(func() error {
		// No command is "?": a kernel that knows the type says EINVAL.
		id, err := unix.AddKey(src.keyType(), description, []byte("?"), unix.KEY_SPEC_THREAD_KEYRING)
		switch {
		case errors.Is(err, unix.EINVAL):
			return nil
		case err != nil:
			return explain(src, "new", err)
		}
		_, _ = unix.KeyctlInt(unix.KEYCTL_UNLINK, id, unix.KEY_SPEC_THREAD_KEYRING, 0, 0)
		return nil
	})
}
