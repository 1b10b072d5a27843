package transport

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// unixAcceptor listens on a Unix socket, for the networks unix and vsock-mux.
type unixAcceptor struct {
	*net.UnixListener
	addr    Addr        // as given to Listen
	path    string      // of the socket; differs from addr.Path for vsock-mux
	created os.FileInfo // the socket file, if this acceptor has to remove it
}

var _ acceptor = (*unixAcceptor)(nil)

// muxListenPath returns where the VMM delivers connections to a port of the
// host.
func muxListenPath(a Addr) string {
	return a.Path + "_" + strconv.FormatUint(uint64(a.Port), 10)
}

func listenUnix(ctx context.Context, a Addr, cfg *ListenConfig) (*unixAcceptor, error) {
	path := a.Path
	if a.Net == NetworkMux {
		path = muxListenPath(a)
	}
	l, err := bindUnix(ctx, path, cfg)
	if kindOf("listen", a, err) == KindAddrInUse && removeStale(ctx, path) {
		l, err = bindUnix(ctx, path, cfg)
	}
	if err != nil {
		return nil, err
	}
	u := &unixAcceptor{UnixListener: l, addr: a, path: path}
	if isAbstract(path) {
		return u, nil
	}
	// The file is removed here and not by the net package, which would also
	// remove one that another listener has put in its place.
	l.SetUnlinkOnClose(false)
	if u.created, err = os.Lstat(path); err == nil && cfg.Mode != 0 {
		err = os.Chmod(path, cfg.Mode.Perm())
	}
	if err == nil && cfg.Backlog > 0 {
		err = setBacklog(l, cfg.Backlog)
	}
	if err != nil {
		u.close()
		return nil, err
	}
	return u, nil
}

// bindUnix binds and listens. The file never has more permissions than
// cfg.Mode, not even before the caller's chmod, which only adds what the umask
// took away.
func bindUnix(ctx context.Context, path string, cfg *ListenConfig) (*net.UnixListener, error) {
	lc := net.ListenConfig{}
	if cfg.Mode != 0 {
		lc.Control = func(_, _ string, rc syscall.RawConn) error { return limitMode(rc, cfg.Mode.Perm()) }
	}
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return l.(*net.UnixListener), nil
}

func isAbstract(path string) bool {
	return strings.HasPrefix(path, "@")
}

// removeStale removes the socket file of a listener that is gone, and reports
// whether it did. It leaves alone what somebody serves, what is no socket, and
// what changed while it looked.
func removeStale(ctx context.Context, path string) bool {
	before, err := os.Lstat(path)
	if err != nil || before.Mode().Type() != fs.ModeSocket {
		return false
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		conn.Close()
		return false
	}
	if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, wsaECONNREFUSED) {
		return false
	}
	return removeIfSame(path, before)
}

func removeIfSame(path string, want os.FileInfo) bool {
	now, err := os.Lstat(path)
	return err == nil && os.SameFile(want, now) && os.Remove(path) == nil
}

func (u *unixAcceptor) accept() (*Conn, error) {
	c, err := u.AcceptUnix()
	if err != nil {
		return nil, err
	}
	local := u.addr
	return unixConn(c, local, addrOfUnix(c.RemoteAddr()), local.Net, local.Port, local.Path), nil
}

func (u *unixAcceptor) close() error {
	if u.created != nil {
		removeIfSame(u.path, u.created)
	}
	return u.UnixListener.Close()
}

func (u *unixAcceptor) setDeadline(t time.Time) error { return u.SetDeadline(t) }

func (u *unixAcceptor) file() (*os.File, error) { return u.File() }
