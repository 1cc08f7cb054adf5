package migrate

import (
	"errors"
	"fmt"
	"strings"

	"layervault/migrate/docker"
)

var (
	// ErrClearEngine: the new engine keeps images in the clear.
	ErrClearEngine = errors.New("engine does not keep its images with layervault's snapshotter")
	// ErrClearFolder: the folder of the migration is not encrypted by layervault.
	ErrClearFolder = errors.New("folder is not on a volume of the vault, images and secrets of containers would lie there in the clear")
	// ErrSameEngine: both addresses are of one engine.
	ErrSameEngine = errors.New("both addresses are of the same engine")
	// ErrSpace: too little free space.
	ErrSpace = errors.New("too little free space")
	// ErrOtherImage: a tag has another image on the new engine.
	ErrOtherImage = errors.New("tag has another image on the new engine")
	// ErrContent: the two engines do not tell the same of an image.
	ErrContent = errors.New("image differs on the new engine")
	// ErrArchive: the tar of an image is not complete, or not of that image.
	ErrArchive = errors.New("tar of the image is damaged")
	// ErrState: the state of the migration cannot be used.
	ErrState = errors.New("state of the migration is damaged")
	// ErrBusy: another process works on the same migration.
	ErrBusy = errors.New("another migration works in this folder")
	// ErrUnfinished: some images were not moved.
	ErrUnfinished = errors.New("not all images were moved")
)

// ContentError says in what an image differs. It is an ErrContent.
type ContentError struct {
	Image  string
	Fields []string
}

func (e *ContentError) Error() string {
	return fmt.Sprintf("%s: %v: %s", e.Image, ErrContent, strings.Join(e.Fields, ", "))
}

func (e *ContentError) Unwrap() error { return ErrContent }

// compare wants two engines to tell the same of an image.
func compare(name string, old, now docker.Content) error {
	if fields := differences(old, now); len(fields) > 0 {
		return &ContentError{name, fields}
	}
	return nil
}
