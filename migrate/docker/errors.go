package docker

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"golang.org/x/sys/unix"
)

var (
	// ErrAddress: an address names no unix socket.
	ErrAddress = errors.New("address of an engine must be unix:///PATH")
	// ErrNoEngine: nothing answers as a Docker engine.
	ErrNoEngine = errors.New("no docker engine answers")
	// ErrAPI: the versions of the API that the engine has and those known here do not overlap.
	ErrAPI = errors.New("no common version of the docker API")
	// ErrNotFound: the engine has no such image (404).
	ErrNotFound = errors.New("not found")
	// ErrConflict: the engine refuses, because something is in use (409).
	ErrConflict = errors.New("in use")
	// ErrUnpack: an image was loaded, and could not be unpacked.
	ErrUnpack = errors.New("image cannot be unpacked")
)

// Error is an error that the engine answered with, by its status or within a stream.
type Error struct {
	Doing   string // such as "load an image"
	Status  int    // of HTTP; 0 if it came within a stream
	Message string // the engine's own words
}

func (e *Error) Error() string {
	message := e.Message
	if message == "" {
		message = strings.ToLower(http.StatusText(e.Status))
	}
	return fmt.Sprintf("%s: docker answers: %s", e.Doing, message)
}

// noSpace is what the engine says of a full disk: it has no status for that.
const noSpace = "no space left on device"

// Is implements the interface of errors.Is.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrNotFound:
		return e.Status == http.StatusNotFound
	case ErrConflict:
		return e.Status == http.StatusConflict
	case unix.ENOSPC:
		return strings.Contains(e.Message, noSpace)
	}
	return false
}
