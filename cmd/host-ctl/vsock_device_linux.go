package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/vsockrpc/vsockrpc/transport"
	"github.com/vsockrpc/vsockrpc/transport/vsockdev"
)

// serveDevice serves VMs and callers until ctx ends, which is no error.
func serveDevice(ctx context.Context, o *deviceOptions, mode fs.FileMode, gid int, log *slog.Logger) error {
	dev, err := vsockdev.New(vsockdev.Config{CID: o.cid, Dial: vsockdev.MuxDialer(o.uds), Logger: log})
	if err != nil {
		return usageError{err}
	}
	defer dev.Close()
	vhost, closeVhost, err := listenSocket(ctx, o.socket, mode, gid)
	if err != nil {
		return err
	}
	defer closeVhost()
	uds, closeUDS, err := listenSocket(ctx, o.uds, mode, gid)
	if err != nil {
		return err
	}
	defer closeUDS()
	log.Info("serving", "cid", o.cid, "socket", o.socket, "uds", o.uds)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return dev.Serve(vhost) })
	group.Go(func() error { return dev.ServeMux(uds) })
	defer context.AfterFunc(ctx, func() { dev.Close() })()
	if err := group.Wait(); !errors.Is(err, vsockdev.ErrClosed) {
		return err
	}
	return nil
}

// listenSocket listens on a Unix socket which nobody else can connect to before
// it has its group and mode. The function closes it and removes the file.
func listenSocket(ctx context.Context, path string, mode fs.FileMode, gid int) (*net.UnixListener, func(), error) {
	// A socket that is left over from a device that was killed is replaced.
	l, err := transport.Listen(ctx, transport.UnixAddr(path), &transport.ListenConfig{Mode: 0o600})
	if err != nil {
		return nil, nil, err
	}
	u, err := unixListener(l)
	if err == nil && gid >= 0 {
		err = os.Chown(path, -1, gid)
	}
	if err == nil {
		err = os.Chmod(path, mode)
	}
	if err != nil {
		l.Close()
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return u, func() { u.Close(); l.Close() }, nil
}

// unixListener returns the socket of l, which stays l's too.
func unixListener(l *transport.Listener) (*net.UnixListener, error) {
	f, err := l.File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	u, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	u.(*net.UnixListener).SetUnlinkOnClose(false)
	return u.(*net.UnixListener), nil
}
