package transport

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"
)

// Dial connects to an address. A nil cfg means the defaults.
//
// It makes one attempt, with a new socket. The attempt ends as soon as ctx is
// done, and then the error satisfies errors.Is(err, ctx.Err()); once Dial has
// returned a connection, ctx has no effect on it. All errors are [*Error]; one
// whose Temporary method reports true is worth another attempt while a guest
// boots.
//
// The caller must Close the connection.
func Dial(ctx context.Context, a Addr, cfg *DialConfig) (*Conn, error) {
	if cfg == nil {
		cfg = &DialConfig{}
	}
	if err := checkDial(a, cfg); err != nil {
		return nil, &Error{Op: "dial", Kind: KindBadAddress, Addr: a, Err: err}
	}
	limited, cancel := limit(ctx, cfg.Timeout)
	defer cancel()
	if err := limited.Err(); err != nil {
		return nil, opError(ctx, "dial", a, false, err)
	}

	var c *Conn
	var err error
	waiting := true
	switch a.Net {
	case NetworkVsock:
		c, err = dialVsock(limited, a, cfg)
	case NetworkMux:
		c, err = dialMux(limited, a)
	default:
		waiting = false
		c, err = dialUnix(limited, a)
	}
	if err != nil {
		return nil, opError(ctx, "dial", a, waiting, err)
	}
	return c, nil
}

// checkDial reports what makes a of no use for dialing.
func checkDial(a Addr, cfg *DialConfig) error {
	switch a.Net {
	case NetworkVsock:
		switch {
		case a.CID == 0:
			return errors.New("CID 0 is reserved for the hypervisor: the host is 2, guests are 3 and above")
		case a.CID == CIDAny:
			return errors.New("CID any (-1) is for listening only: name the CID to dial")
		case a.Port == PortAny:
			return errors.New("port any (-1) is for listening only: name the port to dial")
		case cfg.LocalPort != 0 && cfg.PrivilegedPort:
			return errors.New("LocalPort and PrivilegedPort exclude each other")
		}
		return nil
	case NetworkMux:
		if a.Port == PortAny {
			return errors.New("port any (-1) is for listening only: name the port to dial")
		}
	case NetworkUnix:
	default:
		return errors.New("unknown network: want vsock, vsock-mux or unix")
	}
	switch {
	case a.Path == "":
		return errors.New("empty path")
	case cfg.LocalPort != 0:
		return errors.New("a local port is for vsock only")
	}
	return nil
}

// limit adds the time limit of an attempt to ctx.
func limit(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout <= 0 {
		if _, ok := ctx.Deadline(); ok {
			return ctx, func() {}
		}
		timeout = DefaultTimeout
	}
	return context.WithTimeout(ctx, timeout)
}

func dialUnix(ctx context.Context, a Addr) (*Conn, error) {
	u, err := connectUnix(ctx, a.Path)
	if err != nil {
		return nil, err
	}
	return unixConn(u, addrOfUnix(u.LocalAddr()), a, NetworkUnix, 0, a.Path), nil
}

// connectUnix connects to a Unix socket. A server whose backlog is full makes
// a non-blocking connect fail with EAGAIN, with nothing to poll for; the
// blocking one would wait, and so does this.
func connectUnix(ctx context.Context, path string) (*net.UnixConn, error) {
	var d net.Dialer
	for delay := time.Millisecond; ; delay = min(2*delay, 50*time.Millisecond) {
		conn, err := d.DialContext(ctx, "unix", path)
		if err == nil {
			return conn.(*net.UnixConn), nil
		}
		if !errors.Is(err, syscall.EAGAIN) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(delay):
		}
	}
}
