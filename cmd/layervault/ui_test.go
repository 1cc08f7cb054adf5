package main

import (
	"strings"
	"testing"
)

func TestShort(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for in, want := range map[string]string{
		id:                          "0123456789ab",
		id + "-init":                "0123456789ab-init",
		"w2ynhn2kzk4nq5vyz0ip8zl5m": "w2ynhn2kzk4nq5vyz0ip8zl5m",
		"":                          "",
	} {
		if got := short(in); got != want {
			t.Errorf("short(%q) is %q, want %q", in, got, want)
		}
	}
}
