package luks2_test

import (
	"testing"

	"layervault/crypt/luks2"
)

// The image lies in the page cache, so these measure the computing; Sync of a real
// disk comes on top of BenchmarkFormat.

func BenchmarkFormat(b *testing.B) {
	f := benchImage(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := luks2.Format(f, luks2.Params{}, luks2.RandomKeyKDF(), secret); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	f := benchImage(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := luks2.Read(f); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadUnlock(b *testing.B) {
	f := benchImage(b)
	b.ReportAllocs()
	for b.Loop() {
		h, err := luks2.Read(f)
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := h.Unlock(f, secret); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReadAuthentic is what a layer that is open already costs beside the system calls.
func BenchmarkReadAuthentic(b *testing.B) {
	f := newImage(b)
	if _, _, err := luks2.Format(f, luks2.Params{Owner: &owner}, luks2.RandomKeyKDF(), secret); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		h, err := luks2.Read(f)
		if err != nil {
			b.Fatal(err)
		}
		if err := h.Authentic(owner, secret); err != nil {
			b.Fatal(err)
		}
	}
}

func benchImage(b *testing.B) luks2.File {
	f := newImage(b)
	if _, _, err := luks2.Format(f, luks2.Params{}, luks2.RandomKeyKDF(), secret); err != nil {
		b.Fatal(err)
	}
	return f
}
