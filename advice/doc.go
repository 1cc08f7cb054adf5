// Package advice says what follows an error: the exit status of the command line, and the command
// to type next. All other packages only say what is wrong.
package advice

import (
	"errors"
	"fmt"
)

// UsageError is a command line, or a setting, that makes no sense.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }

func (e *UsageError) Unwrap() error { return e.Err }

// ReportedError is an error that another process of this program has reported already.
type ReportedError struct{ Status int }

func (e *ReportedError) Error() string { return fmt.Sprintf("exit status %d", e.Status) }

// isUsage reports whether the error is in the command line.
func isUsage(err error) bool {
	_, is := errors.AsType[*UsageError](err)
	return is
}
