package guest_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/vsockrpc/vsockrpc/guest"
)

// cutConn is lost after so many bytes were written to all connections that share left.
type cutConn struct {
	net.Conn
	left *atomic.Int64
}

func (c cutConn) Write(p []byte) (int, error) {
	if left := c.left.Load(); left > 0 && c.left.Add(-int64(len(p))) <= 0 {
		c.Conn.Close()
		return 0, errors.New("cut")
	}
	return c.Conn.Write(p)
}

// TestResumeAsUser cuts a copy that the agent, as root, makes for another user. What has
// come is not sent again.
func TestResumeAsUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can act as others")
	}
	const size = 32 << 20
	var sent, left atomic.Int64
	path := startAgent(t)[len("unix:"):]
	g, err := guest.Dial(t.Context(), "guest", &guest.Config{Dialer: func(ctx context.Context) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, "unix", path)
		if err != nil {
			return nil, err
		}
		return cutConn{countingConn{c, &sent}, &left}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	src := filepath.Join(t.TempDir(), "src")
	want := randomFile(t, src, size)
	dir, err := os.MkdirTemp("", "as-user") // beneath no directory that is root's alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chown(dir, 4242, 4343)); err != nil {
		t.Fatal(err)
	}
	files := g.Files()
	files.User, files.Group = "4242", "4343"
	sent.Store(0)
	left.Store(size * 3 / 4)
	dst := filepath.Join(dir, "dst")
	result, err := files.CopyTo(t.Context(), []string{src}, dst, nil)
	if err != nil {
		t.Fatal(err)
	}
	if result.Resumed != 1 {
		t.Errorf("resumed %d times, want once", result.Resumed)
	}
	if n := sent.Load(); n > size*5/4 {
		t.Errorf("%d bytes were sent for a file of %d that was cut at three quarters", n, size)
	}
	if got := hashFile(t, dst); got != want {
		t.Error("the copy has another hash")
	}
	noLeftovers(t, dir)
}
