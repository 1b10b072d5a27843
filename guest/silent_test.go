package guest

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestSilentGuest: a guest that is paused, or boots, takes connections or not,
// and says nothing. The error says what was waited for and what to do, over both
// wires.
func TestSilentGuest(t *testing.T) {
	for name, tt := range map[string]struct {
		dial func(context.Context) (net.Conn, error)
		want string
	}{
		"takes the connection": {func(context.Context) (net.Conn, error) {
			client, server := net.Pipe()
			go func() {
				for b := make([]byte, 1024); ; {
					if _, err := server.Read(b); err != nil {
						return
					}
				}
			}()
			return client, nil
		}, "no agent has answered"},
		"does not even that": {func(ctx context.Context) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, "connected to in time"},
	} {
		for _, wire := range []Wire{WireNative, WireGRPC} {
			t.Run(name+"/"+string(wire), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					_, err := Dial(ctx, "unix:/s", &Config{Wire: wire, Dialer: tt.dial})
					var e *Error
					if !errors.As(err, &e) || e.Reason != ReasonNoAnswer || !errors.Is(err, context.DeadlineExceeded) || !Temporary(err) {
						t.Fatalf("%v", err)
					}
					if !strings.Contains(err.Error(), tt.want) || !strings.Contains(e.Remedy, "paused") {
						t.Errorf("%q, remedy %q", err, e.Remedy)
					}
				})
			})
		}
	}
}
