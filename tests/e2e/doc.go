// Package e2e runs real sessions of a real dockerd: what people do on a good day
// (testdata/sessions), what happens on a bad one (bad*_test.go), and whether
// images are what stock cryptsetup expects (interop_test.go).
//
// Everything here needs device-mapper, a TPM and an engine, so it carries the
// build tag guest and is run by tests/guest/suites in the guest. E2E_DRIVER
// names the storage driver under test: layervault, or overlay2 to prove that a
// session is itself right (every session passes on plain overlay2, but for the
// lines guarded by [layervault]).
package e2e
