// Package authentic adds a code to small JSON records, which proves that a record was
// written with the tier's key. A record written or changed without the key, or written for
// another tier, has no valid code.
//
// The code of a record is the MAC (see Keys) of its compact JSON as encoding/json writes it,
// the fields in the order of the format's description, without the field that holds the code
// itself. The input is the decoded record, not the file's bytes: bytes that decode to the same
// record are the same record. A code says nothing about age: an older record is as good as the
// present one, unless a count or a UUID elsewhere rules it out.
package authentic

import (
	"crypto/hmac"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
)

// Keys is an open tier.
type Keys interface {
	// MAC is HMAC-SHA256 over data under a subkey for one kind of record.
	MAC(what string, data []byte) ([]byte, error)
}

var (
	// ErrForged: the record was not written with the tier's key.
	ErrForged = errors.New("not authenticated by the key of its tier")
	// ErrOldFormat: the record has a format without authentication, which this tier no
	// longer accepts.
	ErrOldFormat = errors.New("unauthenticated record of format 1")
)

// size of a code in bytes.
const size = 32

// Seal puts the code on a record. code points to the field of the record that holds the
// code; on an error the field is empty. Errors are those of Keys.MAC.
func Seal(keys Keys, what string, record any, code *string) error {
	*code = ""
	sum, err := Sum(keys, what, record)
	if err != nil {
		return err
	}
	*code = sum
	return nil
}

// Verify is ErrForged for a record without the code that Seal gave; other errors are those of
// Keys.MAC. code points to the field of the record that holds the code. The field is empty
// during the call, and afterwards as before: the record must not be in use elsewhere.
func Verify(keys Keys, what string, record any, code *string) error {
	have := *code
	*code = ""
	defer func() { *code = have }()
	return Check(keys, what, have, record)
}

// Sum is the code of a record, in hex. The record's own field for it must be empty. Errors
// are those of Keys.MAC.
func Sum(keys Keys, what string, record any) (string, error) {
	data, err := json.Marshal(record)
	if err != nil {
		return "", fmt.Errorf("authenticate a record of kind %s: %w", what, err)
	}
	sum, err := keys.MAC(what, data)
	if err != nil {
		return "", fmt.Errorf("authenticate a record of kind %s: %w", what, err)
	}
	return hex.EncodeToString(sum), nil
}

// Check returns ErrForged if code is not that of the record; other errors are those of
// Keys.MAC.
func Check(keys Keys, what, code string, record any) error {
	want, err := Sum(keys, what, record)
	if err != nil {
		return err
	}
	if !hmac.Equal([]byte(want), []byte(code)) {
		return ErrForged
	}
	return nil
}

// IsCode says whether a text has the form of a code.
func IsCode(text string) bool {
	raw, err := hex.DecodeString(text)
	return err == nil && len(raw) == size && hex.EncodeToString(raw) == text
}
