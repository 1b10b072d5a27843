package rpc

import (
	"context"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func TestDialTakesTooLong(t *testing.T) {
	for name, dial := range map[string]func(context.Context) (net.Conn, error){
		"waits": func(ctx context.Context) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
		"waits with a context of its own": func(ctx context.Context) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, time.Hour)
			defer cancel()
			<-ctx.Done()
			return nil, ctx.Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var deadline time.Time
				c := NewClient(func(ctx context.Context) (net.Conn, error) {
					deadline, _ = ctx.Deadline()
					return dial(ctx)
				}, &ClientConfig{ConnectTimeout: 3 * time.Second})
				defer c.Close()
				start := time.Now()
				err := c.Invoke(t.Context(), "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue))
				if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "deadline exceeded") {
					t.Errorf("got %v", err)
				}
				if d := time.Since(start); d != 3*time.Second {
					t.Errorf("after %v", d)
				}
				if d := deadline.Sub(start); d != 3*time.Second {
					t.Errorf("dial was given %v", d)
				}
			})
		})
	}
}

// TestLostWhileIdle: a client without calls hears soon that its connection has ended,
// however long that took to make, and however it was used.
func TestLostWhileIdle(t *testing.T) {
	for name, took := range map[string]time.Duration{"quick": 0, "slow": 5 * clientUnread} {
		for use, calls := range map[string]int{"Connect": 0, "one call": 1, "calls": 3} {
			t.Run(name+"/"+use, func(t *testing.T) {
				inBubble(t, nil, nil, func(t *testing.T, s *Server) {
					a, b := net.Pipe()
					go s.ServeConn(b)
					c := NewClient(func(context.Context) (net.Conn, error) {
						time.Sleep(took)
						return a, nil
					}, nil)
					defer c.Close()
					if calls == 0 {
						c.Connect()
					}
					for range calls {
						if err := c.Invoke(t.Context(), "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue)); err != nil {
							t.Fatal(err)
						}
					}
					time.Sleep(took + time.Millisecond)
					if s := c.State(); s != connectivity.Ready {
						t.Fatalf("state %v", s)
					}
					b.Close()
					time.Sleep(2*clientUnread + time.Millisecond)
					if s := c.State(); s != connectivity.Idle {
						t.Errorf("state %v, some time after the connection was lost", s)
					}
				})
			})
		}
	}
}
