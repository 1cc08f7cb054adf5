package migrate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"layervault/internal/durable"
	"layervault/migrate/docker"
)

const (
	stateFile = "state.json"
	stateTemp = ".tmp-state.json"
	// maxState bounds the state that is read. An image takes some 2 KiB, most of it environment and
	// labels, so this is room for 30,000 images.
	maxState = 64 << 20
)

var stateFormat = durable.Format{Oldest: 1, Newest: 1, MaxSize: maxState}

// Stage is how far an image is.
type Stage string

// The stages.
const (
	Saved    Stage = "saved"    // its tar is in the folder
	Verified Stage = "verified" // the new engine has it, and told the same of it as the old one
)

// Entry is one image in the state. An image that is not in the state was not moved.
type Entry struct {
	ID      string         `json:"id"` // on the old engine
	Tags    []string       `json:"tags,omitempty"`
	Digests []string       `json:"digests,omitempty"`
	Size    int64          `json:"size"`
	Content docker.Content `json:"content"`
	Stage   Stage          `json:"stage"`

	// Of the tar in the folder, if there is one: its length and its SHA-256.
	TarSize int64  `json:"tar_size,omitempty"`
	TarSum  string `json:"tar_sha256,omitempty"`

	NewID  string `json:"new_id,omitempty"` // on the new engine
	Pulled bool   `json:"pulled,omitempty"`
}

// State is what state.json holds.
type State struct {
	Version int     `json:"version"`
	Images  []Entry `json:"images"`
}

var (
	imageID = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	hexSum  = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// DecodeState reads a state. Errors are ErrState.
func DecodeState(data []byte) (*State, error) {
	s := &State{}
	if err := stateFormat.Decode(stateFile, data, s); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	known := map[string]bool{}
	for i := range s.Images {
		e := &s.Images[i]
		if err := e.check(); err != nil {
			return nil, fmt.Errorf("%w: image %d: %w", ErrState, i, err)
		}
		if known[e.ID] {
			return nil, fmt.Errorf("%w: image %s is listed twice", ErrState, e.ID)
		}
		known[e.ID] = true
	}
	return s, nil
}

func (e *Entry) check() error {
	switch {
	case !imageID.MatchString(e.ID):
		return fmt.Errorf("ID %q is no SHA-256 digest", e.ID)
	case e.Stage != Saved && e.Stage != Verified:
		return fmt.Errorf("unknown stage %q", e.Stage)
	case e.TarSum != "" && !hexSum.MatchString(e.TarSum), e.Stage == Saved && e.TarSum == "":
		return fmt.Errorf("sum of the tar %q is no SHA-256", e.TarSum)
	case e.Size < 0 || e.TarSize < 0:
		return errors.New("negative size")
	case e.Stage == Verified && e.NewID == "":
		return errors.New("verified without an ID on the new engine")
	}
	return nil
}

// readState reads the state of a folder; a folder without one has an empty state.
func readState(dir string) (*State, error) {
	f, err := os.Open(filepath.Join(dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return &State{Version: stateFormat.Newest}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the state: %w", err)
	}
	data, err := stateFormat.Read(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("read the state: %w", err)
	}
	return DecodeState(data)
}

// Encode is the content of state.json.
func (s *State) Encode() ([]byte, error) {
	data, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return nil, fmt.Errorf("write the state: %w", err)
	}
	return append(data, '\n'), nil
}

// write replaces the state of a folder. A crash leaves the old state or the new one.
func (s *State) write(dir string) error {
	data, err := s.Encode()
	if err != nil {
		return err
	}
	return durable.Replace(filepath.Join(dir, stateFile), stateTemp, data)
}

// find is the entry of an image, nil for none.
func (s *State) find(id string) *Entry {
	if i := slices.IndexFunc(s.Images, func(e Entry) bool { return e.ID == id }); i >= 0 {
		return &s.Images[i]
	}
	return nil
}

// set puts an entry in the place of the one with its ID.
func (s *State) set(e Entry) {
	if old := s.find(e.ID); old != nil {
		*old = e
		return
	}
	s.Images = append(s.Images, e)
}

// name is what people know an image by.
func name(id string, tags, digests []string) string {
	switch {
	case len(tags) > 0:
		return tags[0]
	case len(digests) > 0:
		return digests[0]
	}
	return id
}

// Name is what people know the image by.
func (e *Entry) Name() string { return name(e.ID, e.Tags, e.Digests) }

// tarFile is where the image's tar is, below the folder.
func tarFile(id string) string {
	return filepath.Join(imagesFolder, strings.TrimPrefix(id, "sha256:")+".tar")
}
