package rpc

import (
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"
)

// TestBubblesAndOthers makes calls in bubbles of fake time and outside of them, in
// turns: what is recycled from one may be used in the other.
func TestBubblesAndOthers(t *testing.T) {
	calls := func(t *testing.T) {
		s := newEchoServer(&echo{}, &ServerConfig{HandlersApart: true})
		defer s.Stop()
		c := NewClient(func(context.Context) (net.Conn, error) {
			a, b := net.Pipe()
			go s.ServeConn(b)
			return a, nil
		}, nil)
		defer c.Close()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 20 {
					if err := c.Invoke(t.Context(), "/test.Echo/Echo", value("x"), value("")); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
	}
	for range 3 {
		synctest.Test(t, calls)
		calls(t)
	}
}
