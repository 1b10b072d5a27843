package guest

import (
	"context"
	"io"
	"net"
	"sync"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// Relay joins two connections, of [Guest.DialContext] or of the net package,
// until both directions have ended or one of them breaks, and closes both. The
// end of a direction is passed on by CloseWrite, and a broken connection to the
// other one as a reset, where its kind has such a thing; data that had arrived
// before is passed on first. A connection without CloseWrite is closed instead.
//
// The error is nil if both directions came to their ends, and otherwise what
// broke. To end a relay early, close either connection.
func Relay(a, b net.Conn) error {
	var once sync.Once
	var first error
	half := func(dst, src net.Conn) {
		read, err := copyHalf(dst, src)
		if err == nil {
			err = closeWrite(dst)
		}
		if err == nil {
			return
		}
		once.Do(func() { first = err })
		if read {
			reset(a)
			reset(b)
		}
		// What can no longer be written to may still have something to say,
		// and then says by itself that it is broken.
	}
	other := make(chan struct{})
	go func() {
		defer close(other)
		half(b, a)
	}()
	half(a, b)
	<-other
	if first != nil {
		reset(a)
		reset(b)
		return first
	}
	a.Close()
	b.Close()
	return nil
}

// copyHalf copies to the end of src. If it fails, read says whether src did.
func copyHalf(dst, src net.Conn) (read bool, err error) {
	if t, ok := dst.(*tunnel); ok {
		r := &failingReader{Reader: src}
		_, err = t.ReadFrom(r)
		return err != nil && r.failed, err
	}
	w := &failingWriter{Writer: dst}
	if t, ok := src.(*tunnel); ok {
		_, err = t.WriteTo(w)
	} else {
		_, err = io.Copy(w, struct{ io.Reader }{src})
	}
	return err != nil && !w.failed, err
}

// failingReader notes that a read failed, other than by the end.
type failingReader struct {
	io.Reader
	failed bool
}

func (r *failingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.failed = err != nil && err != io.EOF
	return n, err
}

// failingWriter notes that a write failed.
type failingWriter struct {
	io.Writer
	failed bool
}

func (w *failingWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.failed = err != nil
	return n, err
}

func closeWrite(c net.Conn) error {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return c.Close()
}

// reset closes c such that its peer sees a broken connection, where that is
// possible.
func reset(c net.Conn) {
	switch c := c.(type) {
	case interface{ Reset() error }:
		c.Reset()
		return
	case interface{ SetLinger(sec int) error }:
		c.SetLinger(0)
	}
	c.Close()
}

// DialAgent makes a further connection to the agent's own port, as the Guest
// makes its own, for a client of another kind: it speaks the native wire or
// gRPC over HTTP/2. ctx bounds the dialing. The caller must close the
// connection, which lives on when the Guest is closed.
//
// The error is an [*Error].
func (g *Guest) DialAgent(ctx context.Context) (net.Conn, error) {
	conn, err := g.dialer.dial(ctx)
	if err != nil {
		return nil, g.wrap("dial", guestv1.AgentService_Info_FullMethodName, err)
	}
	return conn, nil
}
