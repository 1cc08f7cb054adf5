package convert

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// EVE's configuration is a protobuf. Its Go module is not needed for the few fields that count
// here: they are read from the wire. Their numbers are those of lf-edge/eve-api, folder proto
// (until 2023 lf-edge/eve, folder api/proto); a number is never used again for something else.
//
//	auth/auth.proto          AuthContainer      protectedPayload 1
//	                         AuthBody           payload 1
//	config/devconfig.proto   ConfigResponse     config 1, configHash 2
//	                         EdgeDevConfig      apps 4, contentInfo 20, volumes 21
//	config/appconfig.proto   AppInstanceConfig  uuidandversion 1, drives 4, purge 10, volumeRefList 16
//	                         InstanceOpsCmd     counter 2
//	                         VolumeRef          uuid 1, generationCount 2
//	config/devcommon.proto   UUIDandVersion     uuid 1
//	config/storage.proto     Drive              image 1
//	                         Image              sha256 3, iformat 4
//	                         Volume             uuid 1, origin 2, maxsizebytes 5, clear_text 8
//	                         VolumeContentOrigin downloadContentTreeID 2
//	                         ContentTree        uuid 1, sha256 5
//
// An AuthContainer is told from a ConfigResponse by its payload: the two have a message as
// field 1, and the payload of the one is a whole ConfigResponse.

// Limits of a configuration. A device has tens of applications, with a handful of drives each.
const (
	// maxConfig is the size of a file: EVE's largest configurations have some hundred KiB.
	maxConfig = 16 << 20
	// maxApps, maxDrives and maxVolumes bound what is kept in memory: 4096 applications of 64
	// drives are 16 MiB at most.
	maxApps    = 4096
	maxDrives  = 64
	maxVolumes = 16384
	// maxText is the length of a UUID or a digest, with room to spare. Nothing longer is kept.
	maxText = 128
)

var (
	// ErrBadConfig: a file is no configuration of EVE's, or is cut off.
	ErrBadConfig = errors.New("not a configuration of EVE")
	errTooMany   = errors.New("more entries than any device has")
)

// device is what counts of a configuration.
type device struct {
	apps    []app
	volumes []volumeConfig
	trees   []contentTree
}

type app struct {
	uuid   string
	purge  uint32 // of drive 0
	drives []drive
	refs   []volumeRef
}

type drive struct {
	sha    string // "" where the configuration has none
	format uint64 // number of Format
}

type volumeRef struct {
	uuid       string
	generation int64
}

type volumeConfig struct {
	uuid, tree string
	maxSize    int64
	clear      bool
}

type contentTree struct{ uuid, sha string }

// field is one field of a message: a number or bytes, by its type on the wire.
type field struct {
	num   protowire.Number
	typ   protowire.Type
	n     uint64
	bytes []byte // part of the message, not a copy
}

// eachField reads the fields of one message. It allocates nothing, and goes into nothing: the
// depth of a message is that of the functions here.
func eachField(msg []byte, do func(field) error) error {
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return protowire.ParseError(n)
		}
		msg = msg[n:]
		f := field{num: num, typ: typ}
		switch typ {
		case protowire.VarintType:
			f.n, n = protowire.ConsumeVarint(msg)
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(msg)
		default:
			n = protowire.ConsumeFieldValue(num, typ, msg)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		msg = msg[n:]
		if err := do(f); err != nil {
			return fmt.Errorf("field %d: %w", num, err)
		}
	}
	return nil
}

// is reports whether a field has the number and type that a reader expects. A field of another
// type is unknown, as in every protobuf reader.
func (f field) is(num protowire.Number, typ protowire.Type) bool { return f.num == num && f.typ == typ }

// text keeps a short string. A longer one is none that anything here could be called.
func (f field) text(num protowire.Number, into *string) {
	if f.is(num, protowire.BytesType) && len(f.bytes) <= maxText {
		*into = string(f.bytes)
	}
}

// decodeConfig reads a ConfigResponse, alone or in an AuthContainer.
func decodeConfig(data []byte) (*device, error) {
	if len(data) > maxConfig {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrBadConfig, maxConfig)
	}
	if len(data) == 0 {
		return nil, fmt.Errorf("%w: empty", ErrBadConfig)
	}
	if inner, ok := unwrap(data); ok {
		data = inner
	}
	d, found := &device{}, false
	err := eachField(data, func(f field) error {
		if !f.is(1, protowire.BytesType) {
			return nil
		}
		found = true
		return d.read(f.bytes)
	})
	if err == nil && !found {
		err = errors.New("no config field")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadConfig, err)
	}
	return d, nil
}

// unwrap takes the payload out of an AuthContainer. In a ConfigResponse field 1 is an
// EdgeDevConfig, whose own field 1 is a UUIDandVersion, and what is field 1 there is the text of
// a UUID. In an AuthContainer it is an EdgeDevConfig.
func unwrap(data []byte) ([]byte, bool) {
	body, ok := first(data)
	if !ok {
		return nil, false
	}
	payload, ok := first(body)
	if !ok {
		return nil, false
	}
	config, ok := first(payload)
	if !ok || goodUUID(string(config[:min(len(config), maxText)])) != "" || eachField(config, func(field) error { return nil }) != nil {
		return nil, false
	}
	return payload, true
}

// first is the first field 1 of a message that can be read to its end.
func first(msg []byte) (found []byte, ok bool) {
	err := eachField(msg, func(f field) error {
		if f.is(1, protowire.BytesType) && !ok {
			found, ok = f.bytes, true
		}
		return nil
	})
	return found, ok && err == nil
}

// read reads an EdgeDevConfig.
func (d *device) read(msg []byte) error {
	return eachField(msg, func(f field) error {
		switch {
		case f.is(4, protowire.BytesType):
			return more(&d.apps, maxApps, f.bytes, (*app).read)
		case f.is(20, protowire.BytesType):
			return more(&d.trees, maxVolumes, f.bytes, (*contentTree).read)
		case f.is(21, protowire.BytesType):
			return more(&d.volumes, maxVolumes, f.bytes, (*volumeConfig).read)
		}
		return nil
	})
}

// more reads one more message into a bounded list.
func more[T any](list *[]T, most int, msg []byte, read func(*T, []byte) error) error {
	if len(*list) >= most {
		return fmt.Errorf("%w: %d", errTooMany, most)
	}
	var one T
	if err := read(&one, msg); err != nil {
		return err
	}
	*list = append(*list, one)
	return nil
}

func (a *app) read(msg []byte) error {
	return eachField(msg, func(f field) error {
		switch {
		case f.is(1, protowire.BytesType):
			return eachField(f.bytes, func(f field) error { f.text(1, &a.uuid); return nil })
		case f.is(4, protowire.BytesType):
			return more(&a.drives, maxDrives, f.bytes, (*drive).read)
		case f.is(10, protowire.BytesType):
			return eachField(f.bytes, func(f field) error {
				if f.is(2, protowire.VarintType) {
					a.purge = uint32(f.n)
				}
				return nil
			})
		case f.is(16, protowire.BytesType):
			return more(&a.refs, maxDrives, f.bytes, (*volumeRef).read)
		}
		return nil
	})
}

func (d *drive) read(msg []byte) error {
	return eachField(msg, func(f field) error {
		if !f.is(1, protowire.BytesType) {
			return nil
		}
		return eachField(f.bytes, func(f field) error {
			f.text(3, &d.sha)
			if f.is(4, protowire.VarintType) {
				d.format = f.n
			}
			return nil
		})
	})
}

func (r *volumeRef) read(msg []byte) error {
	return eachField(msg, func(f field) error {
		f.text(1, &r.uuid)
		if f.is(2, protowire.VarintType) {
			r.generation = int64(f.n)
		}
		return nil
	})
}

func (v *volumeConfig) read(msg []byte) error {
	return eachField(msg, func(f field) error {
		f.text(1, &v.uuid)
		switch {
		case f.is(2, protowire.BytesType):
			return eachField(f.bytes, func(f field) error { f.text(2, &v.tree); return nil })
		case f.is(5, protowire.VarintType):
			v.maxSize = int64(f.n)
		case f.is(8, protowire.VarintType):
			v.clear = f.n != 0
		}
		return nil
	})
}

func (t *contentTree) read(msg []byte) error {
	return eachField(msg, func(f field) error {
		f.text(1, &t.uuid)
		f.text(5, &t.sha)
		return nil
	})
}
