package layer

// DecodeRecord and Encode show the format to its tests.
var DecodeRecord = decodeRecord

func (r Record) Encode() ([]byte, error) { return r.encode() }

// MaxWarm and the warm images, for their tests.
const MaxWarm = maxWarm

type Warm = warm

func (w *warm) Keep(id string, c closer) error { return w.keep(id, c) }
func (w *warm) Touch(id string) bool           { return w.touch(id) }
func (w *warm) Drop(id string) error           { return w.drop(id) }
func (w *warm) DropIdle() error                { return w.dropIdle() }
func (w *warm) DropAll() error                 { return w.dropAll() }

type closer interface{ Close() error }
