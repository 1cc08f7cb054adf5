package recovery

import (
	"errors"
	"fmt"
)

// The errors of this provider that a caller can tell apart with errors.Is. What it shares
// with others is in package keys.
var (
	// ErrBadRecovery: the recovery key is mistyped or is not the one of this slot.
	ErrBadRecovery = errors.New("recovery key refused")
	// ErrNotAnew: a recovery slot cannot be resealed without its secret.
	ErrNotAnew = errors.New("recovery slots cannot be resealed")
)

// BadRecovery is ErrBadRecovery with what is wrong: Groups names the mistyped
// groups, counted from 1; empty Groups with a well-formed key means that it is
// the key of another ring or slot.
type BadRecovery struct {
	Groups []int
	Reason string
}

func (e *BadRecovery) Error() string { return fmt.Sprintf("%v: %s", ErrBadRecovery, e.Reason) }

// Is makes the error match ErrBadRecovery.
func (e *BadRecovery) Is(target error) bool { return target == ErrBadRecovery }

// Reason reduces the reasons of a locked ring to the recovery slot's, so that the error names
// a typing mistake.
func Reason(err error) error {
	var bad *BadRecovery
	if errors.As(err, &bad) {
		return bad
	}
	return err
}
