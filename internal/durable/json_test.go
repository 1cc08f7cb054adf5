package durable_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"layervault/internal/durable"
)

type record struct {
	Version int    `json:"version"`
	Name    string `json:"name"`
}

var format = durable.Format{Oldest: 1, Newest: 2, MaxSize: 64}

func TestFormat(t *testing.T) {
	for text, want := range map[string]string{
		`{"version":1,"name":"x"}`:           "",
		"{\"name\":\"x\",\"version\":2}\n":   "",
		`{"version":3,"name":"x","later":1}`: "format version 3, this program knows up to 2: use a newer one",
		`{"version":3}}`:                     "format version 3",
		`{"version":0,"name":"x"}`:           "unknown format version 0",
		`{"name":"x"}`:                       "unknown format version 0",
		`{"version":-1}`:                     "unknown format version -1",
		`null`:                               "unknown format version 0",
		`{"version":"2"}`:                    "cannot unmarshal",
		`{"version":1e99}`:                   "cannot unmarshal",
		`[]`:                                 "cannot unmarshal",
		`{"version":2,"name":1}`:             "cannot unmarshal",
		`{"version":2,"later":1}`:            `unknown field "later"`,
		`{"version":2} {"version":2}`:        durable.ErrTrailing.Error(),
		`{"version":2}}`:                     durable.ErrTrailing.Error(),
		`{"version":2,`:                      "unexpected EOF",
		``:                                   "unexpected EOF",
		`{"version":2}` + strings.Repeat(" ", 64): "more than 64 bytes",
	} {
		var got record
		err := format.Decode("thing x", []byte(text), &got)
		if want == "" && (err != nil || got.Name != "x") {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
		if want != "" && (err == nil || !strings.HasPrefix(err.Error(), "thing x: ") || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
		var version *durable.VersionError
		if is := errors.As(err, &version); is != strings.Contains(want, "format version") || is && (version.Oldest != 1 || version.Newest != 2) {
			t.Errorf("%s: %#v", text, err)
		}
		if errors.Is(err, durable.ErrTrailing) != (want == durable.ErrTrailing.Error()) {
			t.Errorf("%s: %v", text, err)
		}
		if errors.Is(err, durable.ErrTooLong) != strings.HasPrefix(want, "more than") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// A file that never ends is not read to its end; a failing disk is no damaged file.
func TestFormatRead(t *testing.T) {
	data, err := format.Read(strings.NewReader(`{"version":2}`))
	if err != nil || string(data) != `{"version":2}` {
		t.Errorf("%q, %v", data, err)
	}
	data, err = format.Read(endless{})
	must(t, err)
	if err := format.Decode("thing", data, new(record)); !errors.Is(err, durable.ErrTooLong) {
		t.Errorf("endless: %v", err)
	}
	broken := io.MultiReader(strings.NewReader(`{"version":2}`), iotest.ErrReader(errors.ErrUnsupported))
	if _, err := format.Read(broken); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("failing: %v", err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestDecode(t *testing.T) {
	for text, trailing := range map[string]bool{`{"a":1} x`: true, `{"a":1}{}`: true, `{"b":1}`: false, `{`: false, ``: false} {
		var r struct{ A int }
		if err := durable.Decode([]byte(text), &r); err == nil || errors.Is(err, durable.ErrTrailing) != trailing {
			t.Errorf("%s: %v", text, err)
		}
	}
	var n int
	if err := durable.Decode([]byte(" 7 "), &n); err != nil || n != 7 {
		t.Errorf("%d, %v", n, err)
	}
}
