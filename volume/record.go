package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"layervault/internal/authentic"
	"layervault/internal/durable"
)

// TokenType is the type of the LUKS2 token that holds a volume's record.
const TokenType = "layervault-volume" //nolint:gosec // a LUKS2 token is no secret

// The versions of records. A higher one than the newest is refused. Version 1 has neither
// an authentication nor a count of local purges. A record in a file that was made where there
// is no vault has none either, because there is no key. A token has no MAC of its own in any
// version, see the package comment.
const (
	recordVersion    = 2
	oldRecordVersion = 1
)

// recordKind is the kind of a record in a file in its authentication.
const recordKind = "volume"

// recordFormat is the format of a record, in a file or in a token. A record has about 500
// bytes; a token shares the 12 KiB of a LUKS2 header.
var recordFormat = durable.Format{Oldest: oldRecordVersion, Newest: recordVersion, MaxSize: 12 << 10}

// Record describes a volume. It has only what cannot be derived, and no secret, because it is
// readable without a key.
type Record struct {
	Version    int    `json:"version"`
	Name       string `json:"name"`
	UUID       string `json:"uuid"`
	Generation int64  `json:"generation"`
	// Local is how many of the generations were made on this host (Purge), and not requested
	// by a controller: EVE counts the two separately, and adds them in the file's name.
	Local   int64     `json:"local,omitempty"`
	Created time.Time `json:"created"`
	Options Options   `json:"options"`
	// MAC authenticates a record in a file, see package authentic.
	MAC string `json:"mac,omitempty"`
}

// asked is the generation that a controller requested.
func (r Record) asked() int64 { return r.Generation - r.Local }

// seal gives a record for a file its authentication.
func (r Record) seal(keys authentic.Keys) (Record, error) {
	r.Version = recordVersion
	err := authentic.Seal(keys, recordKind, &r, &r.MAC)
	return r, err
}

// authentic is ErrForged for a record in a file that was not written with a key.
func (r Record) authentic(keys authentic.Keys) error {
	return authentic.Verify(keys, recordKind, &r, &r.MAC)
}

// ID is the volume's identity.
func (r Record) ID() ID { return ID{r.UUID, r.Generation} }

// token is a record as a LUKS2 token. It names no key slot: a change of keys must not
// have to change it.
type token struct {
	Type     string   `json:"type"`
	KeySlots []string `json:"keyslots"`
	Record
}

func (r Record) encodeToken() (json.RawMessage, error) {
	return json.Marshal(token{TokenType, []string{}, r})
}

func (r Record) encodeFile() ([]byte, error) {
	data, err := json.MarshalIndent(r, "", "  ")
	return append(data, '\n'), err
}

// decodeToken reads a record from the token that encodeToken wrote.
func decodeToken(data []byte) (Record, error) {
	t := token{}
	if err := recordFormat.Decode("record", data, &t); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if t.MAC != "" {
		return Record{}, fmt.Errorf("%w: token has a MAC", ErrDamaged)
	}
	return t.Record, t.check()
}

func decodeFile(data []byte) (Record, error) {
	var r Record
	if err := recordFormat.Decode("record", data, &r); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if r.MAC != "" && (r.Version == oldRecordVersion || !authentic.IsCode(r.MAC)) {
		return Record{}, fmt.Errorf("%w: format version %d has MAC %q", ErrDamaged, r.Version, r.MAC)
	}
	return r, r.check()
}

// check rejects invalid records: ErrDamaged.
func (r Record) check() error {
	err := r.checkLocal()
	if err == nil {
		err = r.Options.check()
	}
	if err == nil {
		request := Request{Options: r.Options, UUID: r.UUID, Generation: r.Generation}
		err = errors.Join(ValidateName("volume", r.Name), r.ID().check(), request.check())
	}
	if err == nil {
		err = r.Options.checkNames()
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil
}

func (r Record) checkLocal() error {
	if r.Local < 0 || r.Local > r.Generation || r.Local > 0 && r.Version == oldRecordVersion {
		return fmt.Errorf("%d local generations of %d", r.Local, r.Generation)
	}
	return nil
}

// check rejects invalid values of single options; Request.check has the combinations.
func (o Options) check() error {
	switch {
	case o.Disk == "" && (o.Tier == "" || !slices.Contains(kinds, kindOf(o))):
		return fmt.Errorf("tier %q", o.Tier)
	case o.Persistence != Permanent && o.Persistence != Revision && o.Persistence != Boot:
		return fmt.Errorf("persistence %q", o.Persistence)
	case o.Size < 0 || o.Size > MaxSize:
		return fmt.Errorf("size %d", o.Size)
	}
	return nil
}

func (o Options) checkNames() error {
	if o.Disk != "" {
		if err := ValidateDiskName(o.Disk); err != nil {
			return err
		}
	}
	for _, name := range [][2]string{{"platform", o.Platform}, {"revision", o.Revision}} {
		if name[1] == "" {
			continue
		}
		if err := ValidateName(name[0], name[1]); err != nil {
			return err
		}
	}
	return nil
}
