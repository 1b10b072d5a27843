package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The protocol of a VMM's vsock socket, as in Firecracker's docs/vsock.md: the
// client sends "CONNECT <port>\n" and nothing else; the VMM answers
// "OK <n>\n", where n is the port it allotted on the host's side, once the
// guest has accepted. It refuses by closing the connection. From the answer's
// line feed on, the bytes are the guest's.

// maxAnswer is the longest line, with its line feed, that is read as an
// answer. The longest that is valid has 14 bytes.
const maxAnswer = 32

func dialMux(ctx context.Context, a Addr) (*Conn, error) {
	u, err := connectUnix(ctx, a.Path)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return nil, opError(ctx, "dial", a, false, err)
		}
		return nil, err
	}
	hostPort, err := handshake(ctx, u, a.Port)
	if err != nil {
		u.Close()
		if errors.Is(err, errHungUp) {
			return nil, &Error{Op: "dial", Kind: KindVMMClosed, Addr: a, Err: err}
		}
		if errors.Is(err, errBadAnswer) {
			return nil, &Error{Op: "dial", Kind: KindBadHandshake, Addr: a, Err: err}
		}
		return nil, err
	}
	return unixConn(u, MuxAddr(a.Path, hostPort), a, NetworkMux, a.Port, a.Path), nil
}

var (
	errHungUp    = errors.New("connection closed before the answer to CONNECT")
	errBadAnswer = errors.New("unexpected answer to CONNECT")
)

// handshake asks for the guest's port and returns the host's. When ctx ends
// first, the error is that of ctx. conn has no deadline afterwards.
func handshake(ctx context.Context, conn net.Conn, port uint32) (uint32, error) {
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		conn.SetDeadline(time.Unix(1, 0))
		close(interrupted)
	})
	hostPort, err := exchange(conn, port)
	if !stop() {
		// The context ended, maybe just after the answer came. Either way this
		// attempt was over when it did.
		<-interrupted
		return 0, ctx.Err()
	}
	return hostPort, err
}

func exchange(conn io.ReadWriter, port uint32) (uint32, error) {
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return 0, asHungUp(err)
	}
	return readAnswer(conn)
}

// asHungUp marks the errors of a connection that the other side has closed.
func asHungUp(err error) error {
	for _, gone := range []error{io.EOF, syscall.EPIPE, syscall.ECONNRESET} {
		if errors.Is(err, gone) {
			return fmt.Errorf("%w: %w", errHungUp, err)
		}
	}
	return err
}

// readAnswer reads "OK <n>\n" and not one byte more. It reads single bytes,
// because what follows belongs to the guest, which may speak first. Anything
// that cannot become a valid answer ends it at once.
func readAnswer(r io.Reader) (uint32, error) {
	line := make([]byte, 0, maxAnswer)
	for len(line) < maxAnswer {
		b := line[len(line) : len(line)+1]
		if _, err := io.ReadFull(r, b); err != nil {
			return 0, asHungUp(err)
		}
		line = line[:len(line)+1]
		if b[0] == '\n' {
			return parseAnswer(string(line))
		}
		if !startsAnswer(string(line)) {
			break
		}
	}
	return 0, fmt.Errorf("%w: %q", errBadAnswer, line)
}

// startsAnswer reports whether s can be the beginning of an answer.
func startsAnswer(s string) bool {
	const ok = "OK "
	if len(s) <= len(ok) {
		return strings.HasPrefix(ok, s)
	}
	return strings.HasPrefix(s, ok) && isDigits(s[len(ok):])
}

func parseAnswer(line string) (uint32, error) {
	digits := strings.TrimSuffix(strings.TrimPrefix(line, "OK "), "\n")
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || !startsAnswer(strings.TrimSuffix(line, "\n")) {
		return 0, fmt.Errorf("%w: %q", errBadAnswer, line)
	}
	return uint32(n), nil
}
