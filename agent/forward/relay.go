//go:build linux

package forward

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/agent/internal/fault"
	"github.com/vsockrpc/vsockrpc/internal/bulk"
)

// relay joins the rest of a stream with conn until both directions have ended,
// or either breaks. It closes conn, and returns what the call ends with. A
// connection that the host breaks off is reset for its peer in the guest too.
//
// After an error the receiver may still be in RecvMsg: it ends when the handler
// has returned.
func relay(stream grpc.ServerStream, conn net.Conn) error {
	defer context.AfterFunc(stream.Context(), func() { reset(conn) })()
	received := make(chan error, 1)
	go func() {
		err := receiveTo(stream, conn)
		received <- err
		// What cannot be written to any more may still have something to say,
		// and then says by itself that it is broken.
		if _, ok := err.(writeError); err != nil && !ok {
			reset(conn) // which ends sendFrom
		}
	}()
	err := sendFrom(stream, conn)
	if err != nil {
		reset(conn)
		select {
		case receiveErr := <-received:
			err = cmp.Or(receiveErr, err)
		default:
		}
	} else {
		select {
		case err = <-received:
		case <-stream.Context().Done():
		}
	}
	if ctxErr := stream.Context().Err(); ctxErr != nil {
		err = ctxErr
	}
	if err == nil {
		conn.Close()
		return nil
	}
	reset(conn)
	if w, ok := err.(writeError); ok {
		return resetFault(w.error)
	}
	return err
}

// writeError is why a socket of the guest could not be written to.
type writeError struct{ error }

// sendFrom sends what conn gives until its end, which it sends too.
func sendFrom(stream grpc.ServerStream, conn net.Conn) error {
	datagrams := isDatagram(conn)
	out := bulk.NewTunnelReader(conn, datagrams)
	defer out.Free()
	for {
		frame, readErr := out.Next()
		if frame != nil {
			if err := stream.SendMsg(frame); err != nil {
				return err
			}
		}
		switch {
		case readErr == nil:
		case errors.Is(readErr, io.EOF):
			return nil
		default:
			return resetFault(readErr)
		}
	}
}

// receiveTo writes what arrives to conn until the end, which it passes on.
func receiveTo(stream grpc.ServerStream, conn net.Conn) error {
	datagrams := isDatagram(conn)
	frame := bulk.Frame{Layout: bulk.Tunnel}
	defer frame.Free()
	for {
		if err := stream.RecvMsg(&frame); err != nil {
			if errors.Is(err, io.EOF) {
				// The client will send no more, and did not say that this
				// was on purpose.
				return fault.New(codes.Canceled, reasonReset, "the host broke the connection off")
			}
			return err
		}
		end := frame.Varints[bulk.TunnelEnd] != 0
		if len(frame.Data) > 0 || datagrams && !end {
			// What one datagram meets, such as nobody listening, says nothing
			// of the next.
			if _, err := conn.Write(frame.Data); err != nil && !datagrams {
				return writeError{err}
			}
		}
		frame.Free()
		if end {
			return closeWrite(conn)
		}
	}
}

// isDatagram reports whether writes to conn keep their boundaries.
func isDatagram(conn net.Conn) bool {
	switch c := conn.(type) {
	case *net.UDPConn:
		return true
	case *net.UnixConn:
		return c.LocalAddr().Network() == "unixgram"
	}
	return false
}

// closeWrite passes the end of a direction on. A datagram socket has no such
// thing: its connection is over.
func closeWrite(conn net.Conn) error {
	c, ok := conn.(interface{ CloseWrite() error })
	if !ok || isDatagram(conn) {
		return conn.Close()
	}
	if err := c.CloseWrite(); err != nil {
		return writeError{err}
	}
	return nil
}

// reset closes conn such that its peer sees a broken connection, not an end.
func reset(conn net.Conn) {
	if c, ok := conn.(*net.TCPConn); ok {
		c.SetLinger(0)
	}
	conn.Close()
}
