// Package advice says what follows an error: the exit status of the command line, and the command
// to type next. All other packages only say what is wrong.
package advice

import "errors"

// UsageError is a command line, or a setting, that makes no sense.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }

func (e *UsageError) Unwrap() error { return e.Err }

// isUsage reports whether the error is in the command line.
func isUsage(err error) bool {
	_, is := errors.AsType[*UsageError](err)
	return is
}
