// Package guesttest is for tests of programs that use package guest: it makes a guest
// inside the test's own process, as net/http/httptest makes a server. No VM, no
// privilege and no network is needed.
//
//	func TestBackup(t *testing.T) {
//		g := guesttest.New(t)
//		backup(t.Context(), g.Guest) // what is tested
//		g.Cut()                      // as a restore from a snapshot does
//		...
//	}
//
// The guest is this machine: its commands run here, and its files are this machine's.
// Give it directories of t.TempDir.
//
// On Linux the guest's agent is the real one, as guest-agent runs it: all of package guest
// works. Commands of other users and with limits also need process.MaybeRunLauncher in
// TestMain. On other systems an agent stands in for it that runs commands (without a
// terminal, and not detached) as the test's own user, reads, writes and copies files;
// for the rest the guest answers with guest.ReasonAgentTooOld.
package guesttest

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc/test/bufconn"

	"github.com/vsockrpc/vsockrpc/guest"
)

// Guest is a guest in this process. Its methods may be called concurrently.
type Guest struct {
	*guest.Guest

	listener *bufconn.Listener
	stop     func()

	mu    sync.Mutex
	conns map[net.Conn]bool
}

// agent is what serves the guest.
type agent interface {
	Serve(net.Listener) error
	Close() error
}

// New makes a guest that ends with the test. It fails the test if it cannot.
func New(tb testing.TB) *Guest {
	tb.Helper()
	g, err := Start(context.Background(), nil)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(g.Close)
	return g
}

// Start makes a guest and dials it with cfg, whose Dialer is replaced; nil means the
// defaults. ctx bounds the dial. The caller must Close the guest.
func Start(ctx context.Context, cfg *guest.Config) (*Guest, error) {
	a, err := newAgent()
	if err != nil {
		return nil, fmt.Errorf("guesttest: %w", err)
	}
	return start(ctx, cfg, a)
}

func start(ctx context.Context, cfg *guest.Config, a agent) (_ *Guest, err error) {
	g := &Guest{listener: bufconn.Listen(256 << 10), conns: make(map[net.Conn]bool)}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = a.Serve(g.listener) // it ends when the agent is closed
	}()
	g.stop = sync.OnceFunc(func() {
		if g.Guest != nil {
			g.Guest.Close()
		}
		a.Close()
		g.listener.Close()
		<-served
	})
	own := guest.Config{}
	if cfg != nil {
		own = *cfg
	}
	own.Dialer = g.Dialer
	if g.Guest, err = guest.Dial(ctx, "guesttest", &own); err != nil {
		g.stop()
		return nil, err
	}
	return g, nil
}

// Dialer makes a connection to the guest. It is a guest.Config's Dialer, for a program
// that calls guest.Dial itself.
func (g *Guest) Dialer(ctx context.Context) (net.Conn, error) {
	c, err := g.listener.DialContext(ctx)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	conn := &countedConn{c, g}
	g.conns[conn] = true
	return conn, nil
}

// countedConn is a connection that the guest knows of while it is open.
type countedConn struct {
	net.Conn
	guest *Guest
}

// Close implements net.Conn.
func (c *countedConn) Close() error {
	c.guest.mu.Lock()
	delete(c.guest.conns, c)
	c.guest.mu.Unlock()
	return c.Conn.Close()
}

// Cut breaks all connections to the guest, as a restore from a snapshot does. The guest
// goes on, and so does whatever survives that: docs/reliability.md lists it.
func (g *Guest) Cut() {
	g.mu.Lock()
	var open []net.Conn
	for c := range g.conns {
		open = append(open, c)
	}
	g.mu.Unlock()
	for _, c := range open {
		c.Close()
	}
}

// Close ends the guest: its commands, its connections and its agent. It may be called
// again.
func (g *Guest) Close() { g.stop() }
