package crypt_test

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"layervault/crypt"
)

func TestParseMountOptions(t *testing.T) {
	for _, tt := range []struct {
		text string
		want crypt.MountOptions
		bad  bool
	}{
		{"", crypt.MountOptions{}, false},
		{"defaults,rw", crypt.MountOptions{}, false},
		{"noatime,nodev", crypt.MountOptions{Flags: unix.MS_NOATIME | unix.MS_NODEV}, false},
		{"commit=30,noatime,data=ordered", crypt.MountOptions{Flags: unix.MS_NOATIME, Data: "commit=30,data=ordered"}, false},
		{"errors=remount-ro", crypt.MountOptions{Data: "errors=remount-ro"}, false},
		{"errors=panic", crypt.MountOptions{}, true},
		{"ro", crypt.MountOptions{}, true},
		{"usrjquota=/etc/passwd", crypt.MountOptions{}, true},
		{"commit=/x", crypt.MountOptions{}, true},
		{"bind", crypt.MountOptions{}, true},
	} {
		got, err := crypt.ParseMountOptions(tt.text)
		if got != tt.want || (err != nil) != tt.bad || tt.bad && !errors.Is(err, crypt.ErrBadParams) {
			t.Errorf("%q: %+v, %v", tt.text, got, err)
		}
	}
}
