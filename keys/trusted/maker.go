package trusted

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// The kernel has one source of trusted keys at a time, chosen at boot, and does not
// report which. A slot that depends on a TPM instead of the expected CAAM must be
// detected when it is made; the format of a sealed key reveals its maker.

// tpmObject is the object identifier of a TPM 2.0 loadable key in DER, 2.23.133.10.1.5,
// which the kernel's blobs begin with (security/keys/trusted-keys/trusted_tpm2.c).
var tpmObject = []byte{0x06, 0x06, 0x67, 0x81, 0x05, 0x0a, 0x01, 0x05}

const (
	// caamOverhead is what CAAM adds to a key: a blob key and a MAC (CAAM_BLOB_OVERHEAD,
	// <soc/fsl/caam-blob.h>).
	caamOverhead = 32 + 16
	// dcpHeader is version, sealed blob key, nonce and length; dcpMAC the tag at the end
	// (struct dcp_blob_fmt, security/keys/trusted-keys/trusted_dcp.c).
	dcpHeader = 1 + 16 + 16 + 4
	dcpMAC    = 16
)

// makerOf derives the maker of a sealed key of n bytes from its format, "" if unknown. A
// TEE's format is only known to differ from a TPM's.
func makerOf(sealed []byte, n int) string {
	const derSequence, dcpVersion = 0x30, 1
	switch {
	case len(sealed) > 16 && sealed[0] == derSequence && bytes.Contains(sealed[:16], tpmObject):
		return kindTPM
	case len(sealed) == dcpHeader+n+dcpMAC && sealed[0] == dcpVersion && binary.LittleEndian.Uint32(sealed[dcpHeader-4:]) == uint32(n):
		return kindDCP
	case len(sealed) == n+caamOverhead:
		return kindCAAM
	}
	return ""
}

// checkMaker rejects a slot that depends on another source than it names.
func (s Source) checkMaker(slot blob) error {
	if s.keyType() != "trusted" {
		return nil
	}
	sealed, err := hex.DecodeString(slot.Sealed)
	if err != nil {
		return fmt.Errorf("%w: kernel returned no hex: %w", ErrNoTrusted, err)
	}
	c, _ := s.cipherNamed(slot.Cipher)
	maker := makerOf(sealed, c.key)
	if maker == s.kind || maker == "" && s.kind == kindTEE {
		return nil
	}
	if maker == "" {
		maker = "another source"
	}
	return &KernelError{Source: s.kind, Why: fmt.Sprintf("kernel uses %s, not %s", maker, s.kind)}
}
