// Package handover sends an open tier key to a running process that could not unlock on
// its own: a plugin whose TPM slot needs a PIN, or whose PCRs changed, need not be
// restarted. A person unlocks with the command line, which sends the key over a socket.
//
// The socket is in the tier's folder (mode 0700), is itself for its owner alone, and
// takes a key only from a process of the same user, and only the ring's own key. It is
// there only while the receiver is locked.
package handover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"layervault/keys"
)

// Name is the socket's name in the folder of the tier.
const Name = "unlock.sock"

// OfferName is the name of the socket at which a key is offered to a process that has not
// started yet (Offer).
const OfferName = "offer.sock"

// greeting precedes the key, so that both sides detect a wrong peer; its number is that
// of the protocol.
const greeting = "layervault/1 key\n"

// The receiver's answer is one line: accepted, or why not.
const accepted = "ok"

// patience bounds the wait of each side for the other: both respond at once, so only a
// stopped process exceeds it.
const patience = 10 * time.Second

// maxAnswer bounds the answer, in bytes.
const maxAnswer = 1024

// ErrNobody: no process of the tier is waiting for a key.
var ErrNobody = errors.New("no plugin is waiting for a key")

// ErrRefused: the receiver rejected the key; the text is its reason.
var ErrRefused = errors.New("the plugin refused the key")

// Receiver waits for a key. The zero value is closed; see New.
type Receiver struct {
	tier string
	log  *slog.Logger

	mu       sync.Mutex
	listener net.Listener
	key      *keys.TierKey
	closed   bool
	serving  sync.WaitGroup
}

// New makes a receiver for the tier whose folder is given. It does not listen yet.
func New(tier string, log *slog.Logger) *Receiver { return &Receiver{tier: tier, log: log} }

// Listen starts waiting for a key, if it is not doing so already.
func (r *Receiver) Listen() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listener != nil || r.closed {
		return nil
	}
	path := filepath.Join(r.tier, Name)
	// Of a process that was killed; a live one would hold the store, and then this one
	// has no use for a key either.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("wait for a key: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("wait for a key: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(fmt.Errorf("wait for a key: %w", err), l.Close())
	}
	r.listener = l
	r.serving.Go(func() { r.serve(l) })
	return nil
}

// Take gives the key that arrived, nil for none, and ends the waiting. The caller closes
// the key.
func (r *Receiver) Take() *keys.TierKey {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := r.key
	r.key = nil
	if key != nil {
		r.stop()
	}
	return key
}

// Cancel stops waiting, and wipes a received key that was not taken. Listen starts
// again.
func (r *Receiver) Cancel() error {
	if key := r.take(); key != nil {
		return key.Close()
	}
	return nil
}

// take is Take, which ends the waiting in any case.
func (r *Receiver) take() *keys.TierKey {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := r.key
	r.key = nil
	r.stop()
	return key
}

// stop needs r.mu.
func (r *Receiver) stop() {
	if r.listener != nil {
		_ = r.listener.Close() // also unlinks the socket
		r.listener = nil
	}
}

// Close stops waiting and wipes a received key that was not taken.
func (r *Receiver) Close() error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	err := r.Cancel()
	r.serving.Wait()
	return err
}

// serve takes one connection after the other: each is over in a moment.
func (r *Receiver) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return // closed
		}
		r.takeFrom(conn)
	}
}

// Fetch receives an offered key (Offer), to be returned by Take. A missing offer is no
// error; the result of an offer is in the log.
func (r *Receiver) Fetch(ctx context.Context) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", filepath.Join(r.tier, OfferName))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return
	}
	if err != nil {
		r.log.Warn("cannot request the offered tier key", "tier", r.tier, "error", err)
		return
	}
	r.takeFrom(conn)
}

// takeFrom takes the key of one connection, answers, and closes it.
func (r *Receiver) takeFrom(conn net.Conn) {
	answer := accepted
	if err := r.receive(conn.(*net.UnixConn)); err != nil {
		r.log.Warn("refused a tier key", "tier", r.tier, "error", err)
		answer = err.Error()
	} else {
		r.log.Info("received the tier key", "tier", r.tier)
	}
	_, _ = io.WriteString(conn, answer+"\n")
	_ = conn.Close()
}

func (r *Receiver) receive(conn *net.UnixConn) error {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if err := sameUser(conn); err != nil {
		return err
	}
	message := make([]byte, len(greeting)+keys.KeySize)
	defer clear(message)
	if _, err := io.ReadFull(conn, message); err != nil {
		return fmt.Errorf("key is truncated: %w", err)
	}
	if string(message[:len(greeting)]) != greeting {
		return errors.New("not a key of this protocol")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// The current ring: it may have been resealed, or rotated.
	ring, err := keys.Load(ctx, filepath.Join(r.tier, keys.FileName), r.log)
	if err != nil {
		return err
	}
	key, err := ring.Adopt(message[len(greeting):])
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.key != nil {
		return errors.Join(errors.New("already listening"), key.Close())
	}
	r.key = key
	return nil
}

// sameUser refuses a peer of another user, which the socket's mode should do already.
func sameUser(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if credErr != nil {
		return credErr
	}
	if me := os.Geteuid(); int(cred.Uid) != me {
		return fmt.Errorf("peer is user %d, want user %d: %w", cred.Uid, me, fs.ErrPermission)
	}
	return nil
}

// Give sends key to the process that waits at the tier. Errors: ErrNobody, ErrRefused.
func Give(ctx context.Context, tier string, key *keys.TierKey) error {
	path := filepath.Join(tier, Name)
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("%w at %s: vault already open, no request yet, or plugin not running", ErrNobody, path)
	}
	if err != nil {
		return fmt.Errorf("hand over the key: %w", err)
	}
	return send(conn, key)
}

// send gives the key to one receiver, and closes the connection.
func send(conn net.Conn, key *keys.TierKey) (err error) {
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return fmt.Errorf("hand over the key: %w", err)
	}
	message := append(make([]byte, 0, len(greeting)+keys.KeySize), greeting...)
	defer func() { clear(message[:cap(message)]) }()
	if err := key.Lend(func(raw []byte) error { message = append(message, raw...); return nil }); err != nil {
		return err
	}
	if _, err := conn.Write(message); err != nil {
		return fmt.Errorf("hand over the key: %w", err)
	}
	answer, err := io.ReadAll(io.LimitReader(conn, maxAnswer))
	if err != nil {
		return fmt.Errorf("hand over the key: %w", err)
	}
	if text := strings.TrimSpace(string(answer)); text != accepted {
		return fmt.Errorf("%w: %q", ErrRefused, text)
	}
	return nil
}

// Offer waits for a process that finds the tier locked, and gives it the key: where that
// process does not live long enough to be given one, as a plugin whose dockerd ends when the
// vault is locked. It calls ready when it can be found. Errors: ErrRefused, the context's.
func Offer(ctx context.Context, tier string, key *keys.TierKey, ready func()) (err error) {
	path := filepath.Join(tier, OfferName)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // of one that was killed
		return fmt.Errorf("offer the key: %w", err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("offer the key: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() }) // also unlinks the socket
	defer func() {
		if stop() {
			err = errors.Join(err, l.Close())
		}
	}()
	if err := os.Chmod(path, 0o600); err != nil {
		return fmt.Errorf("offer the key: %w", err)
	}
	ready()
	conn, err := l.Accept()
	if err != nil {
		if ctxErr := ctx.Err(); ctxErr != nil {
			err = ctxErr
		}
		return fmt.Errorf("offer the key: %w", err)
	}
	if err := sameUser(conn.(*net.UnixConn)); err != nil {
		return fmt.Errorf("offer the key: %w", errors.Join(err, conn.Close()))
	}
	return send(conn, key)
}
