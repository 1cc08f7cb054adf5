// Package evetest builds EVE's protobuf messages field by field, for tests and for demos. The
// numbers of the fields are in convert/wire.go.
package evetest

import (
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// Message is a field that holds the given fields.
func Message(field protowire.Number, fields ...[]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, field, protowire.BytesType), slices.Concat(fields...))
}

// Text is a field with a string.
func Text(field protowire.Number, s string) []byte { return Message(field, []byte(s)) }

// Number is a field with a number.
func Number(field protowire.Number, n uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, field, protowire.VarintType), n)
}
