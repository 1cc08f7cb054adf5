package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"golang.org/x/term"

	"layervault/keys"
)

// maxSecret bounds what is read as a recovery key, passphrase or PIN, in bytes.
const maxSecret = 4096

// readSecretFile reads a secret from a file, "-" for standard input, without the
// line's end. The file must be private, like a key file. The caller wipes the result.
func readSecretFile(stdin io.Reader, name string) (_ []byte, err error) {
	in := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
			return nil, fmt.Errorf("%w: %s has mode %04o; chmod 0600 it", keys.ErrBadMode, name, info.Mode().Perm())
		}
		in = f
	}
	buf := make([]byte, maxSecret+1)
	n, err := io.ReadFull(in, buf)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		clear(buf)
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	secret := bytes.TrimRight(buf[:n], "\r\n")
	if len(secret) == 0 || n > maxSecret {
		clear(buf)
		return nil, usagef("%s holds no secret of 1 to %d bytes", name, maxSecret)
	}
	return secret, nil
}

// askSecret asks on the terminal, without echo. The caller wipes the result.
func (a *app) askSecret(ctx context.Context, question string) ([]byte, error) {
	f, ok := a.in.(*os.File)
	if !ok || !isTerminal(f) {
		return nil, fmt.Errorf("%w: standard input is no terminal to ask on; name a file (see --help), - for standard input", keys.ErrNeedsPerson)
	}
	state, err := term.GetState(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("prepare the terminal: %w", err)
	}
	_, _ = fmt.Fprintf(a.err, "%s: ", question)
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
		_, _ = fmt.Fprintln(a.err)
		if got.err != nil {
			return nil, fmt.Errorf("read from the terminal: %w", got.err)
		}
		return got.text, nil
	case <-ctx.Done():
		_ = term.Restore(int(f.Fd()), state)
		_, _ = fmt.Fprintln(a.err)
		return nil, ctx.Err()
	}
}

// askTwice asks for a new secret and for its repetition.
func (a *app) askTwice(ctx context.Context, question string) ([]byte, error) {
	first, err := a.askSecret(ctx, question)
	if err != nil {
		return nil, err
	}
	again, err := a.askSecret(ctx, question+", again")
	if err != nil {
		clear(first)
		return nil, err
	}
	defer clear(again)
	if !bytes.Equal(first, again) {
		clear(first)
		return nil, usagef("the two entries differ")
	}
	return first, nil
}

// ringLog shows the ring's warnings (a mended copy) on standard error.
func (a *app) ringLog() *slog.Logger {
	return slog.New(hinting{slog.NewTextHandler(a.err, &slog.HandlerOptions{
		Level: slog.LevelWarn,
		ReplaceAttr: func(_ []string, attr slog.Attr) slog.Attr {
			if attr.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return attr
		},
	})})
}
