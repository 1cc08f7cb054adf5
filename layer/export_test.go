package layer

import "layervault/crypt"

// DecodeRecord and Encode show the format to its tests.
var DecodeRecord = decodeRecord

func (r Record) Encode() ([]byte, error) { return r.encode() }

func (r Record) Seal(keys crypt.KeySource) (Record, error) { return r.seal(keys) }

func (r Record) Authentic(keys crypt.KeySource) error { return r.authentic(keys) }

// MaxWarm and the warm images, for their tests.
const MaxWarm = maxWarm

type Warm = warm

func (w *warm) Keep(id string, h Held) error { return w.keep(id, h) }
func (w *warm) Borrow(id string) Held        { return w.borrow(id) }
func (w *warm) Drop(id string) error         { return w.drop(id) }
func (w *warm) DropIdle() error              { return w.dropIdle() }
func (w *warm) DropAll() error               { return w.dropAll() }
