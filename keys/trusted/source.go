package trusted

import (
	"fmt"
	"strconv"
	"strings"
)

// Source is the chip, or the other key, on which a slot depends.
type Source struct {
	kind   string
	handle uint32 // tpm: persistent handle of the storage key
	master string // encrypted: "user:NAME" or "trusted:NAME"
}

// The kinds of sources. The first four are those of the kernel's parameter
// trusted.source.
const (
	kindTPM       = "tpm"
	kindCAAM      = "caam"
	kindDCP       = "dcp"
	kindTEE       = "tee"
	kindTagged    = "tagged"    // NXP's own kernels: CAAM by /dev/caam-keygen
	kindEncrypted = "encrypted" // under another key of the kernel's
)

const sourceNames = "tpm, caam, dcp, tee, tagged or encrypted:user:NAME"

// Help explains sources to people.
const Help = `tpm, tpm:0x81000001    kernel trusted key of the TPM, under the storage key at that handle
  caam, dcp, tee         kernel trusted key of i.MX CAAM or DCP, or of a TEE
  tagged                 CAAM by NXP's own kernels (/dev/caam-keygen)
  encrypted:user:NAME    kernel encrypted key under the "user" key NAME (or trusted:NAME),
                         which a boot service must add to root's keyring`

// defaultHandle is where the TCG's provisioning guidance has the storage root key
// (TCG TPM v2.0 Provisioning Guidance, section 7.8).
const defaultHandle = 0x81000001

// persistentHandles is the range of handles that outlive a reset (TPM 2.0 part 2,
// section 7.4).
const firstPersistent, lastPersistent uint64 = 0x81000000, 0x81ffffff

// maxName bounds a master key's name. The kernel takes 4095 bytes; names are words.
const maxName = 128

// ParseSource reads a source; "" gives none. Error: ErrBadSource.
func ParseSource(s string) (Source, error) {
	kind, rest, more := strings.Cut(s, ":")
	switch {
	case s == "":
		return Source{}, nil
	case kind == kindTPM:
		src := Source{kind: kind, handle: defaultHandle}
		if more {
			n, err := strconv.ParseUint(rest, 0, 32)
			if err != nil || n < firstPersistent || n > lastPersistent {
				return Source{}, fmt.Errorf("%w: %q: handle must be between %#x and %#x", ErrBadSource, s, firstPersistent, lastPersistent)
			}
			src.handle = uint32(n)
		}
		return src, nil
	case kind == kindEncrypted:
		if err := checkMaster(rest); err != nil {
			return Source{}, fmt.Errorf("%w: %q: %w", ErrBadSource, s, err)
		}
		return Source{kind: kind, master: rest}, nil
	case !more && (kind == kindCAAM || kind == kindDCP || kind == kindTEE || kind == kindTagged):
		return Source{kind: kind}, nil
	}
	return Source{}, fmt.Errorf("%w: %q; known sources: %s", ErrBadSource, s, sourceNames)
}

// checkMaster accepts the master keys that the kernel's encrypted keys accept.
func checkMaster(s string) error {
	kind, name, _ := strings.Cut(s, ":")
	switch {
	case kind != "user" && kind != "trusted":
		return fmt.Errorf("master key is missing, as in encrypted:user:NAME")
	case name == "" || len(name) > maxName:
		return fmt.Errorf("master key name must have 1 to %d characters", maxName)
	case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }):
		return fmt.Errorf("master key name must be printable, without spaces")
	}
	return nil
}

// None says that no source was set.
func (s Source) None() bool { return s.kind == "" }

// String is what ParseSource reads.
func (s Source) String() string {
	switch s.kind {
	case kindTPM:
		return fmt.Sprintf("%s:%#x", s.kind, s.handle)
	case kindEncrypted:
		return s.kind + ":" + s.master
	}
	return s.kind
}

// keyType is the kernel's type of the key that dm-crypt gets.
func (s Source) keyType() string {
	switch s.kind {
	case kindTagged:
		return "logon"
	case kindEncrypted:
		return "encrypted"
	}
	return "trusted"
}

// software reports that no chip is behind the source: an encrypted key is only as
// strong as the origin of its master key.
func (s Source) software() bool { return strings.HasPrefix(s.master, "user:") }

func (s Source) detail() string {
	switch s.kind {
	case kindTPM:
		return fmt.Sprintf("kernel trusted key, TPM, storage key %#x", s.handle)
	case kindTagged:
		return "NXP tagged key, CAAM, 128 bit"
	case kindEncrypted:
		return "kernel encrypted key under " + s.master
	case kindDCP:
		return "kernel trusted key, DCP, 128 bit" // its blobs are under an AES-128 key
	}
	return "kernel trusted key, " + strings.ToUpper(s.kind)
}

// cipher is a dm-crypt cipher and the bytes of its key.
type cipher struct {
	name string
	key  int
}

// knownCiphers are those that a slot may name. XTS first: it is what images use. CBC is for
// kernels without XTS, among them those that let CAAM do the work. A tagged key is 16 bytes
// that only CAAM can decrypt, after a header of 20 (TAG_OVERHEAD_SIZE in NXP's kernels).
var (
	cipherXTS    = cipher{"aes-xts-plain64", 64}
	cipherCBC    = cipher{"aes-cbc-essiv:sha256", 32}
	cipherTagged = cipher{"capi:tk(cbc(aes))-plain", 36}
)

func (s Source) ciphers() []cipher {
	if s.kind == kindTagged {
		return []cipher{cipherTagged}
	}
	return []cipher{cipherXTS, cipherCBC}
}

func (s Source) cipherNamed(name string) (cipher, bool) {
	for _, c := range s.ciphers() {
		if c.name == name {
			return c, true
		}
	}
	return cipher{}, false
}
