package snapshotter

import (
	"strconv"
	"strings"
	"sync"
	"time"
)

// A pull prepares a snapshot for each layer of an image, has a differ fill it, and commits it.
// Prepare must return a mount into which any differ can write, for which it makes a writable
// image; our differ has no use for that, and erases it. containerd does not say which differ it
// is going to ask. But all layers of one unpack go through the same one. So the first layer gets
// a writable image; and while our differ fills one layer after another, those above it get none.
//
// Should another differ be asked for one of them all the same, then it finds a file where the
// mount names a directory, and the unpack fails. What was learned is forgotten when that snapshot
// is removed, so the next attempt succeeds. A differ that is asked after ours finds the image
// made: see Differ.Apply. So does whoever asks for the mounts again.

const (
	// labelChain names the layer, with all below it, that a snapshot is prepared to become.
	labelChain = "containerd.io/snapshot.ref"
	// labelParentChain names the layers below it. A snapshot with this label and no parent gets
	// its parent by its commit: its image is unpacked in parallel.
	labelParentChain = "containerd.io/snapshot/parent-chain-id"
)

const (
	// unpackPause is more than what passes between the end of one layer and the preparation of
	// another of the same image.
	unpackPause = time.Minute
	// unpackMemory is how long an unpack is remembered.
	unpackMemory = time.Hour
	// unpackDepth is more than the layers of any image.
	unpackDepth = 1000
)

// layerOfImage names a layer of an image by its chain ID, within a namespace of containerd.
type layerOfImage struct{ namespace, chain string }

// unpacking is what a snapshot is prepared for: a layer of an image on another one. Its layer has
// no chain ID if it is prepared for something else.
type unpacking struct {
	layer layerOfImage
	below string // chain ID, "" for the lowest layer
}

// unpackingOf reads what a snapshot is prepared for.
func unpackingOf(key, parent string, labels map[string]string) unpacking {
	namespace, _ := splitName(key)
	u := unpacking{layerOfImage{namespace, labels[labelChain]}, labels[labelParentChain]}
	if u.below == "" && parent != "" {
		_, u.below = splitName(parent)
	}
	return u
}

// isRebased says that a snapshot without a parent will get one by its commit.
func isRebased(parent string, labels map[string]string) bool {
	return parent == "" && labels[labelParentChain] != ""
}

// splitName splits the name of a snapshot as containerd's metadata gives it, "N/number/key" for
// key in namespace N (core/metadata, createKey). Other names have no namespace.
func splitName(name string) (namespace, key string) {
	namespace, rest, _ := strings.Cut(name, "/")
	number, key, ok := strings.Cut(rest, "/")
	if _, err := strconv.ParseUint(number, 10, 64); !ok || err != nil {
		return "", name
	}
	return namespace, key
}

// unpacks are the unpacks under way, and those of a moment ago.
type unpacks struct {
	mu  sync.Mutex
	all map[layerOfImage]*unpacked
}

// unpacked is how far the unpack of one layer is.
type unpacked struct {
	below    string
	begun    time.Time
	filled   time.Time // by our differ
	promised bool      // the snapshot has no image yet, and nobody has asked for it
}

// expects says that our differ will be asked to fill a snapshot.
func (s *unpacks) expects(u unpacking) bool {
	if u.layer.chain == "" {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at := layerOfImage{u.layer.namespace, u.below}
	for range unpackDepth { // what labels say could go in a circle
		have := s.all[at]
		switch {
		case have == nil:
			return false
		case time.Since(have.filled) < unpackPause:
			return true
		}
		at.chain = have.below
	}
	return false
}

// begin notes that a snapshot was prepared, with an image or the promise of one.
func (s *unpacks) begin(u unpacking, promised bool) {
	if u.layer.chain == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[layerOfImage]*unpacked{}
	}
	for at, have := range s.all {
		if time.Since(have.begun) > unpackMemory {
			delete(s.all, at)
		}
	}
	s.all[u.layer] = &unpacked{below: u.below, begun: time.Now(), promised: promised}
}

// settle notes that a snapshot was asked for: it was promised no longer.
func (s *unpacks) settle(u unpacking) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have := s.all[u.layer]; have != nil {
		have.promised = false
	}
}

// fill notes that our differ filled a snapshot.
func (s *unpacks) fill(u unpacking) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have := s.all[u.layer]; have != nil {
		have.filled = time.Now()
	}
}

// commit notes that a snapshot was committed. If it was another differ that filled it, then so it
// is for the layers above.
func (s *unpacks) commit(u unpacking) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have := s.all[u.layer]; have != nil && have.filled.IsZero() {
		delete(s.all, u.layer)
	}
}

// end notes that a snapshot was removed. If our differ was expected for it, and did not come,
// then it is expected no longer.
func (s *unpacks) end(u unpacking) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have := s.all[u.layer]; have != nil && have.promised {
		clear(s.all)
	}
}
