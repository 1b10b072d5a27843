package vsockdev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// connectLine is the longest request of a client of [Device.ServeMux], with
	// its line feed.
	connectLine = 32

	// connectTime is how long a client may take to send it.
	connectTime = 5 * time.Second

	// muxDialTime is how long [MuxDialer] tries to get into a full backlog. The
	// guest's own patience is 2 s in Linux.
	muxDialTime = 2 * time.Second
)

// ServeMux serves clients of the host that connect to l in the way of
// Firecracker: a client sends "CONNECT <port>\n" and is answered "OK <n>\n" when
// the guest has accepted, n being the port on the host's side; it is refused by
// closing the connection. n is below 1024 if the client's user is root, whose
// connections agents trust by that, else 2^30 or more.
//
// Who may connect is decided by the mode of l's file. At most
// [Config].MaxPending clients are served that have no answer yet, others wait.
// ServeMux closes l, and returns when the device is closed (ErrClosed) or l
// fails.
func (d *Device) ServeMux(l *net.UnixListener) error {
	defer l.Close()
	defer context.AfterFunc(d.ctx, func() { l.Close() })()
	slots := make(chan struct{}, d.cfg.MaxPending)
	for {
		slots <- struct{}{}
		c, err := l.AcceptUnix()
		switch {
		case d.ctx.Err() != nil:
			if err == nil {
				c.Close()
			}
			return ErrClosed
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
			d.log.Warn("a client cannot be accepted", "err", err)
			<-slots
			time.Sleep(100 * time.Millisecond) // until others have ended
			continue
		case err != nil:
			return err
		}
		go func() {
			defer func() { <-slots }()
			if err := d.serveClient(c); err != nil {
				d.log.Debug("a client is refused", "err", err)
			}
		}()
	}
}

// serveClient connects a client to the guest.
func (d *Device) serveClient(c *net.UnixConn) error {
	defer c.Close() // the session has a descriptor of its own
	ctx, cancel := context.WithCancel(d.ctx)
	defer cancel()
	port, err := readConnect(c)
	if err != nil {
		return err
	}
	cred, err := credOf(c)
	if err != nil {
		return err
	}
	fd, err := duplicate(c)
	if err != nil {
		return err
	}
	opened := func(hostPort uint32, err error) {
		if err == nil {
			// The socket is empty, so this is all written or the client is gone.
			_, _ = unix.Write(fd, fmt.Appendf(nil, "OK %d\n", hostPort))
		}
	}
	_, err = d.open(ctx, outgoing{port: port, privileged: cred.Uid == 0, fd: fd, opened: opened})
	return err
}

// credOf returns who connected.
func credOf(c *net.UnixConn) (*unix.Ucred, error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := rc.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return nil, err
	}
	return cred, credErr
}

// readConnect reads "CONNECT <port>\n" and not one byte more: what follows is
// for the guest.
func readConnect(c *net.UnixConn) (uint32, error) {
	if err := c.SetReadDeadline(time.Now().Add(connectTime)); err != nil {
		return 0, err
	}
	line := make([]byte, 0, connectLine)
	for {
		n, err := peek(c, line[len(line):cap(line)])
		if err != nil {
			return 0, err
		}
		got := line[len(line) : len(line)+n]
		end := bytes.IndexByte(got, '\n')
		if end >= 0 {
			got = got[:end+1]
		}
		if _, err := io.ReadFull(c, got); err != nil { // they are there
			return 0, err
		}
		line = line[:len(line)+len(got)]
		if end >= 0 {
			return parseConnect(string(line))
		}
		if len(line) == cap(line) {
			return 0, fmt.Errorf("no request: %q", line)
		}
	}
}

// peek reads what is there and leaves it there.
func peek(c *net.UnixConn, b []byte) (n int, err error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var peekErr error
	err = rc.Read(func(fd uintptr) bool {
		n, _, peekErr = unix.Recvfrom(int(fd), b, unix.MSG_PEEK)
		return !errors.Is(peekErr, unix.EAGAIN)
	})
	switch {
	case err != nil:
		return 0, err
	case peekErr != nil:
		return 0, peekErr
	case n == 0:
		return 0, io.ErrUnexpectedEOF
	}
	return n, nil
}

func parseConnect(line string) (uint32, error) {
	word, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "CONNECT ")
	if !ok {
		return 0, fmt.Errorf("no request: %q", line)
	}
	port, err := strconv.ParseUint(strings.TrimSuffix(word, "\r"), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("no port: %q", line)
	}
	return uint32(port), nil
}

// MuxDialer returns a function for [Config].Dial that connects the guest's
// connections to port P to the Unix socket path_P, as Firecracker does.
func MuxDialer(path string) func(ctx context.Context, port uint32) (net.Conn, error) {
	return func(ctx context.Context, port uint32) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, muxDialTime)
		defer cancel()
		var dialer net.Dialer
		for {
			c, err := dialer.DialContext(ctx, "unix", path+"_"+strconv.FormatUint(uint64(port), 10))
			if !errors.Is(err, unix.EAGAIN) {
				return c, err
			}
			// The listener's backlog is full, and the kernel does not wait.
			select {
			case <-time.After(5 * time.Millisecond):
			case <-ctx.Done():
				return nil, err
			}
		}
	}
}
