//go:build linux

package forward

import (
	"context"
	"net"
	"os"
	"path"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/agent/internal/pinned"
)

// Hold is what a call is held to, which nothing is until NoLinks is called. It is for
// who decides about calls by the paths of sockets: a user of the guest can put a link
// to another socket there.
type Hold struct{ noLinks atomic.Bool }

type holdKey struct{}

// WithHold returns a context for a call, and what that is held to.
func WithHold(ctx context.Context) (context.Context, *Hold) {
	h := new(Hold)
	return context.WithValue(ctx, holdKey{}, h), h
}

// NoLinks holds the call to a path without symbolic links: it connects to, or makes,
// the socket that the path itself names. It has to be called before the handler has
// received its first message.
func (h *Hold) NoLinks() { h.noLinks.Store(true) }

// isHeld reports whether the path of a socket is held to.
func isHeld(ctx context.Context, network, address string) bool {
	h, _ := ctx.Value(holdKey{}).(*Hold)
	return h != nil && h.noLinks.Load() && (network == "unix" || network == "unixgram") && path.IsAbs(address)
}

// dialHeld connects to the socket at a path without links.
func dialHeld(ctx context.Context, d *net.Dialer, network, address string) (net.Conn, error) {
	f, err := pinned.Open(nil, path.Clean(address), false)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return d.DialContext(ctx, network, pinned.Proc(f))
}

// heldListener is a listener at a path without links.
type heldListener struct {
	*net.UnixListener
	dir  *os.File // that the socket is in
	name string
	addr net.Addr
}

// listenHeld listens at a path without links.
func listenHeld(ctx context.Context, address string, file socketFile) (net.Listener, error) {
	clean := path.Clean(address)
	dir, err := pinned.Open(nil, path.Dir(clean), false)
	if err != nil {
		return nil, err
	}
	place := pinned.Proc(dir) + "/" + path.Base(clean)
	removeStale(place)
	l, err := file.listen(ctx, place)
	if err != nil {
		dir.Close()
		return nil, err
	}
	ul := l.(*net.UnixListener)
	ul.SetUnlinkOnClose(false) // by a path that is gone then
	return &heldListener{ul, dir, path.Base(clean), &net.UnixAddr{Net: "unix", Name: clean}}, nil
}

// Addr returns the address by the path that was asked for.
func (l *heldListener) Addr() net.Addr { return l.addr }

// Close ends the listener and removes its socket.
func (l *heldListener) Close() error {
	err := l.UnixListener.Close()
	if err == nil {
		err = unix.Unlinkat(int(l.dir.Fd()), l.name, 0)
		l.dir.Close()
	}
	return err
}
