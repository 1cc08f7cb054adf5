package plugin

import (
	"context"
	"io"
	"log/slog"
)

// NewLog makes the plugin's log. Warnings and errors go to standard error and the rest to
// standard output, because dockerd takes each line of the former for an error of its own.
// There are no times: dockerd and journald add theirs. hint is the command to type after an
// error, "" for none; it is added to what failed.
func NewLog(out, err io.Writer, level slog.Level, hint func(error) string) *slog.Logger {
	return slog.New(split{out: text(out, level), err: hinting{text(err, level), hint}})
}

// text is a log for people, without times.
func text(w io.Writer, level slog.Level) slog.Handler {
	return slog.NewTextHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey && len(groups) == 0 {
			return slog.Attr{}
		}
		return a
	}})
}

// hinting adds the command to type next to what failed.
type hinting struct {
	slog.Handler
	hint func(error) string
}

// Handle implements slog.Handler.
func (h hinting) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		r.Attrs(func(a slog.Attr) bool {
			err, is := a.Value.Any().(error)
			if !is {
				return true
			}
			if hint := h.hint(err); hint != "" {
				r.AddAttrs(slog.String("hint", hint))
			}
			return false
		})
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h hinting) WithAttrs(attrs []slog.Attr) slog.Handler {
	return hinting{h.Handler.WithAttrs(attrs), h.hint}
}

// WithGroup implements slog.Handler.
func (h hinting) WithGroup(name string) slog.Handler {
	return hinting{h.Handler.WithGroup(name), h.hint}
}

// split sends warnings and errors to one handler and the rest to another.
type split struct{ out, err slog.Handler }

func (s split) pick(level slog.Level) slog.Handler {
	if level >= slog.LevelWarn {
		return s.err
	}
	return s.out
}

// Enabled implements slog.Handler.
func (s split) Enabled(ctx context.Context, level slog.Level) bool {
	return s.pick(level).Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (s split) Handle(ctx context.Context, r slog.Record) error {
	return s.pick(r.Level).Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (s split) WithAttrs(attrs []slog.Attr) slog.Handler {
	return split{s.out.WithAttrs(attrs), s.err.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (s split) WithGroup(name string) slog.Handler {
	return split{s.out.WithGroup(name), s.err.WithGroup(name)}
}
