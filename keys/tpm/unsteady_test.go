package tpm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What changes in the course of a boot is named, on machines where it does.
func TestUnsteady(t *testing.T) {
	put := func(t *testing.T, root, name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const ima, stub = "sys/kernel/security/ima/runtime_measurements_count", "sys/firmware/efi/efivars/StubPcrKernelImage-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
	for name, tc := range map[string]struct {
		files map[string]string
		pcrs  string
		want  string
	}{
		"nothing there":         {nil, "0-15", ""},
		"IMA without a policy":  {map[string]string{ima: "1\n"}, "0-15", ""},
		"IMA":                   {map[string]string{ima: "411\n"}, "0-15", "PCR 10"},
		"IMA, not sealed to":    {map[string]string{ima: "411\n"}, DefaultPCRs, ""},
		"a measured kernel":     {map[string]string{stub: "11"}, "0-4,6-14", "PCR 11"},
		"both":                  {map[string]string{ima: "9", stub: "11"}, "10,11,15", "PCR 10 PCR 11 PCR 15"},
		"the defaults hold":     {map[string]string{ima: "9", stub: "11"}, DefaultPCRs, ""},
		"IMA says what it does": {map[string]string{ima: "many"}, "10", ""},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for file, text := range tc.files {
				put(t, root, file, text)
			}
			var got []string
			for _, line := range unsteadyIn(root, mustPCRs(t, tc.pcrs)) {
				pcr, _, _ := strings.Cut(line, ":")
				got = append(got, pcr)
			}
			if strings.Join(got, " ") != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// A TPM with another number is found when it is the only one, and asked for by name when it
// is not.
func TestLocate(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	touch := func(name string) {
		if err := os.WriteFile(path(name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Locate(path("tpmrm0")); !errors.Is(err, ErrNoTPM) {
		t.Fatalf("got %v", err)
	}
	touch("tpm1") // without a resource manager
	touch("tpmrm0.hidden")
	if _, err := Locate(path("tpmrm0")); !errors.Is(err, ErrNoTPM) {
		t.Fatalf("got %v", err)
	}
	touch("tpmrm1")
	if got, err := Locate(path("tpmrm0")); err != nil || got != path("tpmrm1") {
		t.Fatalf("got %q, %v", got, err)
	}
	if _, err := Locate(path("socket")); !errors.Is(err, ErrNoTPM) {
		t.Fatalf("another kind of path: %v", err)
	}
	touch("tpmrm2")
	if _, err := Locate(path("tpmrm0")); !errors.Is(err, ErrNoTPM) || !strings.Contains(err.Error(), "tpmrm1") || !strings.Contains(err.Error(), "tpmrm2") {
		t.Fatalf("got %v", err)
	}
	if got, err := Locate(path("tpmrm2")); err != nil || got != path("tpmrm2") {
		t.Fatalf("got %q, %v", got, err)
	}
}
