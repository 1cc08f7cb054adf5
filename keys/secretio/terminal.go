package secretio

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"layervault/keys"
)

// IsTerminal says whether a stream is a terminal.
func IsTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// Ask asks a question on the terminal that is standard input, without echo. The question is
// written to messages. The caller wipes the result. Error: keys.ErrNeedsPerson where standard
// input is no terminal.
func Ask(ctx context.Context, stdin any, messages io.Writer, question string) ([]byte, error) {
	f, ok := stdin.(*os.File)
	if !ok || !IsTerminal(f) {
		return nil, fmt.Errorf("%w: standard input is no terminal to ask on; name a file (see --help), - for standard input", keys.ErrNeedsPerson)
	}
	state, err := term.GetState(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("prepare the terminal: %w", err)
	}
	_, _ = fmt.Fprintf(messages, "%s: ", question)
	type answer struct {
		text []byte
		err  error
	}
	done := make(chan answer, 1)
	go func() { // ends with the line, or with the process: a terminal's read cannot be cancelled
		text, err := term.ReadPassword(int(f.Fd()))
		done <- answer{text, err}
	}()
	select {
	case got := <-done:
		_, _ = fmt.Fprintln(messages)
		if got.err != nil {
			return nil, fmt.Errorf("read from the terminal: %w", got.err)
		}
		return got.text, nil
	case <-ctx.Done():
		_ = term.Restore(int(f.Fd()), state)
		_, _ = fmt.Fprintln(messages)
		return nil, ctx.Err()
	}
}

// AskTwice asks for a new secret and for its repetition. Errors: ErrDiffer, those of Ask.
func AskTwice(ctx context.Context, stdin any, messages io.Writer, question string) ([]byte, error) {
	first, err := Ask(ctx, stdin, messages, question)
	if err != nil {
		return nil, err
	}
	again, err := Ask(ctx, stdin, messages, question+", again")
	if err != nil {
		clear(first)
		return nil, err
	}
	defer clear(again)
	if !bytes.Equal(first, again) {
		clear(first)
		return nil, ErrDiffer
	}
	return first, nil
}
