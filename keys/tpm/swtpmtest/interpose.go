package swtpmtest

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
)

// maxMessage is more than any TPM takes or sends in one message, in bytes.
const maxMessage = 8192

var interposers atomic.Int64

// Interpose gives a socket that leads to the TPM through alter, which sees each command
// and answers it: as the TPM does (next), or otherwise.
func (t *TPM) Interpose(alter func(command []byte, next func([]byte) []byte) []byte) (socket string) {
	t.tb.Helper()
	path := filepath.Join(filepath.Dir(t.Socket), "i"+strconv.FormatInt(interposers.Add(1), 10))
	l, err := net.Listen("unix", path)
	if err != nil {
		t.tb.Fatal(err)
	}
	var links sync.WaitGroup
	t.tb.Cleanup(func() {
		_ = l.Close()
		links.Wait()
	})
	links.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return // closed
			}
			links.Go(func() { t.carry(from, alter) })
		}
	})
	return path
}

// carry serves one connection.
func (t *TPM) carry(from net.Conn, alter func([]byte, func([]byte) []byte) []byte) {
	defer from.Close()
	to, err := net.Dial("unix", t.Socket)
	if err != nil {
		t.tb.Error(err)
		return
	}
	defer to.Close()
	next := func(command []byte) []byte {
		if _, err := to.Write(command); err != nil {
			t.tb.Error(err)
			return nil
		}
		answer, err := readMessage(to)
		if err != nil {
			t.tb.Error(err)
		}
		return answer
	}
	for {
		command, err := readMessage(from)
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				t.tb.Log(err) // the other side was faster to close
			}
			return
		}
		if _, err := from.Write(alter(command, next)); err != nil {
			return
		}
	}
}

// readMessage reads one command or response: tag (2), size (4), code (4), and the rest.
func readMessage(r io.Reader) ([]byte, error) {
	head := make([]byte, 10)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[2:])
	if size < 10 || size > maxMessage {
		return nil, errors.New("a message of no size that makes sense")
	}
	out := append(head, make([]byte, size-10)...)
	_, err := io.ReadFull(r, out[10:])
	return out, err
}

// Failure is a response that consists of a code alone.
func Failure(code uint32) []byte {
	out := []byte{0x80, 0x01, 0, 0, 0, 10}
	return binary.BigEndian.AppendUint32(out, code)
}
