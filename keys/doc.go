// Package keys holds the key of one tier and the ring of slots that wrap it.
//
// A tier (a folder such as /persist/vault) has one random 32-byte [TierKey].
// It exists in the clear only in locked memory. On disk it lies in keyring.json,
// wrapped once per slot; a slot belongs to one provider (TPM, key file, recovery
// key) and any slot opens the tier. The passphrase of each encrypted image is
// derived from the tier key, so re-sealing a slot touches no image.
//
// What holds for the ring:
//
//   - It must never be lost by our own doing: a write goes to a temporary file,
//     is fsynced, read back and compared, renamed, and the folder is fsynced; then
//     the same is done for keyring.json.bak. One damaged copy is mended from the
//     other; two damaged copies are refused and left as they are.
//   - It must never hold a key in the clear, nor anything from which a key
//     follows: the check value is an HKDF output of the tier key.
//   - Each wrap is bound to the ring and the slot, so a blob copied from another
//     ring opens nothing.
//
// What it cannot do: who can write to the disk can put a ring of his own in place
// of ours. The images then fail to open (their passphrases came from the old key);
// nothing is disclosed, but nothing opens either.
package keys
