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
//   - Layervault must never lose it: a write goes to a temporary file,
//     is fsynced, read back and compared, renamed, and the folder is fsynced; then
//     the same is done for keyring.json.bak. One damaged copy is repaired from the
//     other; two damaged copies are refused and left as they are.
//   - It must never hold a key in the clear, nor anything from which a key
//     follows: the check value is an HKDF output of the tier key.
//   - Each wrap is bound to the ring and the slot, so a blob copied from another
//     ring opens nothing.
//
// Limit: an attacker with write access to the disk can replace the ring by another one.
// The images then fail to open (their passphrases came from the old key); no data is
// disclosed, but no image opens either.
package keys
