package luks2

import (
	"crypto/pbkdf2"
	"fmt"
	"unsafe"

	"golang.org/x/crypto/argon2"

	"layervault/internal/wipehash"
)

// Names of key derivation functions.
const (
	KDFPBKDF2   = "pbkdf2"
	KDFArgon2i  = "argon2i" // reading only
	KDFArgon2id = "argon2id"
)

// Limits on the cost that a header may request. The header is not authenticated before
// a key slot is open, so without these limits a forged header could stall a machine.
const (
	// maxPBKDF2Iterations: a fast core of today does about 10 million SHA-256
	// iterations in a second, and cryptsetup calibrates to 2 seconds. Ten times
	// that is left for headers that were made on faster machines.
	maxPBKDF2Iterations = 200_000_000
	// maxArgonMemoryKiB is 1 GiB, the most that cryptsetup takes unless it is
	// told otherwise (DEFAULT_LUKS2_MEMORY_KB).
	maxArgonMemoryKiB = 1 << 20
	// maxArgonWork bounds passes x memory: 64 passes over 1 GiB take one to two
	// minutes; cryptsetup calibrates to 2 seconds.
	maxArgonWork = 64 << 20
	// maxArgonLanes: cryptsetup makes at most 4. Each lane is a goroutine.
	maxArgonLanes = 64
	// minPBKDF2Iterations is NIST SP 800-132's minimum, and cryptsetup's.
	minPBKDF2Iterations = 1000
	// minArgonPasses is cryptsetup's minimum.
	minArgonPasses = 4

	saltSize = 32 // of key slots and digests, fixed by the format
)

// KDF is how a passphrase becomes the key of a key slot.
type KDF struct {
	Type        string // KDFPBKDF2 or KDFArgon2id
	Hash        string // pbkdf2 only: "sha256" or "sha512"
	Iterations  int    // pbkdf2: iterations, at least 1000; argon2: passes, at least 4
	MemoryKiB   int    // argon2 only: at least 8 per lane, at most 1 GiB
	Parallelism int    // argon2 only: lanes, 1 to 64
}

// RandomKeyKDF is for secrets that are random already: nobody can guess 256 bits, so
// a slow function would only make each image slow to open. 1000 is the least that
// cryptsetup accepts.
func RandomKeyKDF() KDF {
	return KDF{Type: KDFPBKDF2, Hash: "sha256", Iterations: minPBKDF2Iterations}
}

// check rejects parameters that are unsupported or exceed the limits.
func (k KDF) check() error {
	switch k.Type {
	case KDFPBKDF2:
		if newHash(k.Hash) == nil {
			return &UnsupportedError{What: fmt.Sprintf("hash %q in pbkdf2", k.Hash)}
		}
		if k.Iterations > maxPBKDF2Iterations {
			return fmt.Errorf("%w: %d iterations, limit is %d", ErrTooCostly, k.Iterations, maxPBKDF2Iterations)
		}
	case KDFArgon2i, KDFArgon2id:
		if k.MemoryKiB > maxArgonMemoryKiB || k.Parallelism > maxArgonLanes ||
			int64(k.MemoryKiB)*int64(k.Iterations) > maxArgonWork {
			return fmt.Errorf("%w: %d passes over %d KiB in %d lanes", ErrTooCostly, k.Iterations, k.MemoryKiB, k.Parallelism)
		}
		if k.MemoryKiB < 8*k.Parallelism {
			return fmt.Errorf("%s: memory of %d KiB is too small for %d lanes", k.Type, k.MemoryKiB, k.Parallelism)
		}
	default:
		return &UnsupportedError{What: fmt.Sprintf("key derivation function %q", k.Type)}
	}
	if k.Iterations < 1 || (k.Type != KDFPBKDF2 && k.Parallelism < 1) {
		return fmt.Errorf("%s: costs must be at least 1", k.Type)
	}
	return nil
}

// checkNew is check with the stricter limits for new key slots.
func (k KDF) checkNew(passphrase []byte) error {
	if err := k.check(); err != nil {
		return err
	}
	switch {
	case len(passphrase) == 0:
		return ErrEmptyKey
	case k.Type == KDFArgon2i:
		return &UnsupportedError{What: "writing argon2i"}
	case k.Type == KDFPBKDF2 && k.Hash != "sha256" && k.Hash != "sha512":
		return &UnsupportedError{What: fmt.Sprintf("writing pbkdf2 with hash %q", k.Hash)}
	case k.Type == KDFPBKDF2 && k.Iterations < minPBKDF2Iterations:
		return fmt.Errorf("pbkdf2: %d iterations, minimum is %d", k.Iterations, minPBKDF2Iterations)
	case k.Type == KDFArgon2id && k.Iterations < minArgonPasses:
		return fmt.Errorf("argon2id: %d passes, minimum is %d", k.Iterations, minArgonPasses)
	}
	return nil
}

// effort orders key slots by what opening them costs, roughly in compressions of
// SHA-256; one KiB of argon2 costs about as much as ten of them.
func (k KDF) effort() int64 {
	if k.Type == KDFPBKDF2 {
		return int64(k.Iterations)
	}
	return int64(k.Iterations) * int64(k.MemoryKiB) * 10
}

// derive computes a key of n bytes; the caller wipes it. The KDF must have passed
// check. The working memory of argon2 is the Go heap and is not wiped.
func (k KDF) derive(passphrase, salt []byte, n int) ([]byte, error) {
	switch k.Type {
	case KDFPBKDF2:
		return pbkdf2Key(k.Hash, passphrase, salt, k.Iterations, n)
	case KDFArgon2i:
		return argon2.Key(passphrase, salt, uint32(k.Iterations), uint32(k.MemoryKiB), uint8(k.Parallelism), uint32(n)), nil
	default:
		return argon2.IDKey(passphrase, salt, uint32(k.Iterations), uint32(k.MemoryKiB), uint8(k.Parallelism), uint32(n)), nil
	}
}

// pbkdf2Key is PBKDF2 with HMAC of the named hash.
func pbkdf2Key(hashName string, secret, salt []byte, iterations, n int) ([]byte, error) {
	if hashName == "sha256" { // of every slot and digest that layervault makes
		return new(wipehash.State).PBKDF2(secret, salt, iterations, n), nil
	}
	// crypto/pbkdf2 takes the secret as a string and copies it, so a copy stays behind.
	// The string shares the memory of the slice, lest there be two; nobody changes it
	// during the call.
	return pbkdf2.Key(newHash(hashName), unsafe.String(unsafe.SliceData(secret), len(secret)), salt, iterations, n)
}
