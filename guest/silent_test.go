package guest

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vsockrpc/vsockrpc/transport"
)

// TestSilentGuest: a guest that is paused, or boots, takes connections or not,
// and says nothing. The error says what was waited for and what to do, over both
// wires, and is the same whether the caller has a deadline or not.
func TestSilentGuest(t *testing.T) {
	for name, tt := range map[string]struct {
		dial         func(context.Context) (net.Conn, error)
		reason, want string
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
		}, ReasonNoAnswer, "no agent has answered"},
		"does not even that": {func(ctx context.Context) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, ReasonGuestBooting, "connected to in time"},
	} {
		for _, wire := range []Wire{WireNative, WireGRPC} {
			for limit, d := range map[string]time.Duration{"deadline": time.Second, "no deadline": time.Hour} {
				t.Run(name+"/"+string(wire)+"/"+limit, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						ctx, cancel := context.WithTimeout(t.Context(), d)
						defer cancel()
						_, err := Dial(ctx, "unix:/s", &Config{Wire: wire, Dialer: tt.dial})
						var e *Error
						if !errors.As(err, &e) || e.Reason != tt.reason || !e.Timeout() || !Temporary(err) {
							t.Fatalf("%v", err)
						}
						if d == time.Second && !errors.Is(err, context.DeadlineExceeded) || (tt.reason == ReasonGuestBooting) != errors.Is(err, transport.ErrGuestBooting) {
							t.Errorf("%v, code %v", err, e.Code)
						}
						if !strings.Contains(err.Error(), tt.want) || !strings.Contains(e.Remedy, "paused") {
							t.Errorf("%q, remedy %q", err, e.Remedy)
						}
					})
				})
			}
		}
	}
}
