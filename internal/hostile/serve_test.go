package hostile

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
)

// serve serves on a new Unix socket and returns how to reach it.
func serve(t testing.TB, serve func(net.Listener) error) func(context.Context) (net.Conn, error) {
	t.Helper()
	path := servePath(t, serve)
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
}

// servePath is serve, and returns the path of the socket.
func servePath(t testing.TB, serve func(net.Listener) error) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hostile")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = serve(l)
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return path
}
