package socket_test

import (
	"context"
	"errors"
	"testing"

	"layervault/plugin/socket"
)

func TestGateOpens(t *testing.T) {
	g := socket.NewGate[int]()
	gone, cancel := context.WithCancelCause(t.Context())
	why := errors.New("client has gone")
	cancel(why)
	if _, err := g.Wait(gone); !errors.Is(err, why) {
		t.Errorf("a client that has gone: %v", err)
	}
	waited := make(chan int)
	for range 2 {
		go func() {
			n, err := g.Wait(context.Background())
			if err != nil {
				t.Error(err)
			}
			waited <- n
		}()
	}
	g.Open(7)
	g.Open(8) // only the first counts
	g.Refuse(errors.New("too late"))
	for range 2 {
		if n := <-waited; n != 7 {
			t.Errorf("got %d", n)
		}
	}
	if n, err := g.Wait(t.Context()); n != 7 || err != nil {
		t.Errorf("after it was opened: %d, %v", n, err)
	}
}

func TestGateRefuses(t *testing.T) {
	g := socket.NewGate[int]()
	why := errors.New("nothing today")
	g.Refuse(why)
	g.Open(7)
	if n, err := g.Wait(t.Context()); n != 0 || !errors.Is(err, why) {
		t.Errorf("got %d, %v", n, err)
	}
}

func TestGateDrains(t *testing.T) {
	g := socket.NewGate[int]()
	for range 2 {
		if !g.Enter() {
			t.Fatal("a running plugin takes no request")
		}
	}
	ended, cancel := context.WithCancelCause(t.Context())
	why := errors.New("no patience")
	cancel(why)
	if err := g.Drain(ended); !errors.Is(err, why) {
		t.Errorf("two requests under way: %v", err)
	}
	if g.Enter() {
		t.Error("a stopping plugin takes a request")
	}
	g.Leave()
	if err := g.Drain(ended); !errors.Is(err, why) {
		t.Errorf("one request under way: %v", err)
	}
	g.Leave()
	for range 2 {
		if err := g.Drain(t.Context()); err != nil {
			t.Errorf("none under way: %v", err)
		}
	}
}
