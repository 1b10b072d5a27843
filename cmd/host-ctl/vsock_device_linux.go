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

// vsock-device is two processes. The one that was started makes the sockets and
// keeps what the VM's front end gave; the other, its child, is the device. If that
// crashes, the next goes on with the same VM.

// envDevice is set in the environment of the device process, whose descriptors
// from 3 on are the keeper's connection and the two sockets.
const envDevice = "HOST_CTL_VSOCK_DEVICE"

// serveDevice serves VMs and callers until ctx ends, which is no error.
func serveDevice(ctx context.Context, o *deviceOptions, mode fs.FileMode, gid int, log *slog.Logger) error {
	if os.Getenv(envDevice) != "" {
		return runDevice(ctx, o, log)
	}
	if _, err := vsockdev.New(vsockdev.Config{CID: o.cid}); err != nil {
		return usageError{err}
	}
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
	return keepDevice(ctx, o, log, vhost, uds)
}

// listenSocket listens on a Unix socket which nobody else can connect to before
// it has its group and mode. The function closes it and removes the file.
func listenSocket(ctx context.Context, path string, mode fs.FileMode, gid int) (*os.File, func(), error) {
	// A socket that is left over from a device that was killed is replaced.
	l, err := transport.Listen(ctx, transport.UnixAddr(path), &transport.ListenConfig{Mode: 0o600})
	if err != nil {
		return nil, nil, err
	}
	if gid >= 0 {
		err = os.Chown(path, -1, gid)
	}
	if err == nil {
		err = os.Chmod(path, mode)
	}
	var f *os.File
	if err == nil {
		f, err = l.File()
	}
	if err != nil {
		l.Close()
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, func() { f.Close(); l.Close() }, nil
}

// runDevice is the device process.
func runDevice(ctx context.Context, o *deviceOptions, log *slog.Logger) error {
	var listeners [2]*net.UnixListener
	for i := range listeners {
		f := os.NewFile(uintptr(4+i), "socket")
		l, err := net.FileListener(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("%s is for the use of vsock-device itself: %w", envDevice, err)
		}
		listeners[i] = l.(*net.UnixListener)
		listeners[i].SetUnlinkOnClose(false) // the keeper's
	}
	dev, err := vsockdev.New(vsockdev.Config{CID: o.cid, Dial: vsockdev.MuxDialer(o.uds), Keeper: os.NewFile(3, "keeper"), Logger: log})
	if err != nil {
		return err
	}
	defer dev.Close()
	defer context.AfterFunc(ctx, func() { dev.Close() })()
	var group errgroup.Group
	group.Go(func() error { return dev.Serve(listeners[0]) })
	group.Go(func() error { return dev.ServeMux(listeners[1]) })
	if err := group.Wait(); !errors.Is(err, vsockdev.ErrClosed) {
		return err
	}
	return nil
}
