// Package conformance runs docker's own graph driver suite (graphtest), through
// docker's own plugin proxy and a unix socket, against the real plugin server with
// the real driver on a real vault. It needs device-mapper and is run in the guest:
//
//	go test -C tests/conformance -c -tags guest -o ../../bin/conformance.test
//	make guest GUEST_BARE=1 CMD='conformance.test -test.v'
//
// It is a module of its own so that docker's tree stays out of the shipped
// binary's.
package conformance
