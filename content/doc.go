// Package content brings what was fetched into the store that containerd reads, through the areas
// of the vault (package area) and the hands of three users:
//
//	receive   downloader  <hex>.part, then <hex>
//	verify    verifier    verifying/<hex>, then verified/<hex>
//	store     case        .storing/<hex>, then blobs/sha256/<hex>, mode 0444, as containerd has it
//
// <hex> is the SHA-256 that the content is claimed to have. Each step runs as the owner of its
// area and as nobody else; to others the kernel refuses the areas, which are file systems of
// their own with mode 0700. So a step cannot open what the step before left: whoever may, root,
// opens it (Source), hands over the open file alone, and has it removed by its owner (Drop).
// Each step copies, because the areas are different file systems, and computes the digest of
// what it writes: a file that its owner changes meanwhile deceives nobody.
//
// # What an interruption leaves
//
//	receive: writing        <hex>.part, as long as what has come; the next Receive goes on
//	receive: synced         the same
//	receive: renamed        <hex>
//	verify: writing         verifying/<hex>, which the next Verify writes anew
//	verify: renamed         verified/<hex> and the download; the next Verify has it removed
//	store: writing          .storing/<hex>, which the next Store writes anew
//	store: renamed          blobs/sha256/<hex> and verified/<hex>; the same
//
// After a power cut a partial file may be shorter than what was written, or have other bytes at
// its end. Its digest is computed anew from the disk when it is resumed, so such bytes are found
// at the end of the download: it is refused and begins anew.
//
// Content with another digest than claimed is removed at once. Nothing else is, until GC is told
// to.
package content
