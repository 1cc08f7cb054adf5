package layertar

import (
	"errors"
	"fmt"

	"layervault/crypt/fswriter"
)

// LimitError says which bound of layers a tar exceeds; see the constants of package
// fswriter and docs/operations.md.
type LimitError = fswriter.LimitError

// errMissing explains an ErrParent or ErrLinkTarget.
var errMissing = fmt.Errorf("%w: no such directory", ErrParent)

// Errors of a tar that is refused. Each is wrapped with the entry's name.
var (
	// ErrBadTar: a header makes no sense.
	ErrBadTar = errors.New("damaged tar")
	// ErrBreakout: a name leads out of the archive's root.
	ErrBreakout = errors.New("path leads outside the archive")
	// ErrName: no file can be called that.
	ErrName = fswriter.ErrName
	// ErrTooBig: the content does not fit into fswriter.MaxSize.
	ErrTooBig = fswriter.ErrTooBig
	// ErrXattr: an entry's extended attributes are too large.
	ErrXattr = fswriter.ErrXattr
	// ErrLinks: a file has more than 65000 names.
	ErrLinks = fswriter.ErrLinks
	// ErrSymlink: the target of a symbolic link is empty or longer than 4095 bytes.
	ErrSymlink = fswriter.ErrSymlink
	// ErrParent: a name lies below something that is no directory, or below a symbolic
	// link that leads nowhere within the archive.
	ErrParent = errors.New("parent is not a directory")
	// ErrSparse: an entry with holes, in one of GNU tar's four forms. Docker can load
	// some, but what it notes of them (tar-split) gives other bytes when the image is saved.
	ErrSparse = errors.New("sparse entry: docker cannot save such a layer again")
	// ErrLinkTarget: a hard link to what is not in the archive before it, or to a
	// directory.
	ErrLinkTarget = errors.New("hard link without a target")
	// ErrEntryType: an entry of a kind that no file system has.
	ErrEntryType = errors.New("unknown kind of tar entry")
	// ErrUnmappedID: an owner that the ID maps do not cover.
	ErrUnmappedID = errors.New("owner is not in the ID map")
)
