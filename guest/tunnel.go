package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/internal/bulk"
)

// tunnelLinger is how long a closed connection waits for the guest to end its
// direction too: as long as Linux's TCP does (tcp_fin_timeout).
const tunnelLinger = 60 * time.Second

// tunnel is a connection inside the guest, carried by a stream. It behaves like
// a *net.TCPConn or, if datagrams is set, a connected *net.UDPConn.
//
// One goroutine receives, one at a time, and one sends; so deadlines need not
// break the stream.
type tunnel struct {
	stream        grpc.ClientStream
	cancel        context.CancelFunc
	local, remote net.Addr
	datagrams     bool
	held          *held // of all tunnels of the guest

	in       chan *bulk.Frame // from the receiver, unbuffered
	out      chan outgoing    // to the sender; one may wait there
	gotEnd   chan struct{}    // the guest ended its direction
	writeEnd chan struct{}    // CloseWrite was called
	closed   chan struct{}    // Close was called
	broken   chan struct{}    // err is set

	readMu  sync.Mutex
	current *bulk.Frame // what is being read, or nil
	rest    []byte      // of its data
	writeMu sync.Mutex

	readDeadline, writeDeadline deadline

	linger atomic.Int64 // SetLinger's argument plus one

	endOnce, closeOnce, breakOnce sync.Once
	err                           error
}

var _ net.Conn = (*tunnel)(nil)

// newTunnel takes over a stream whose opening messages have been exchanged.
// Close, or the end of the connection, cancels.
func newTunnel(stream grpc.ClientStream, cancel context.CancelFunc, h *held, local, remote net.Addr, datagrams bool) *tunnel {
	t := &tunnel{
		stream: stream, cancel: cancel, local: local, remote: remote, datagrams: datagrams, held: h,
		in: make(chan *bulk.Frame), out: make(chan outgoing, 1),
		gotEnd: make(chan struct{}), writeEnd: make(chan struct{}), closed: make(chan struct{}), broken: make(chan struct{}),
		readDeadline: makeDeadline(), writeDeadline: makeDeadline(),
	}
	go t.receive()
	go t.send()
	return t
}

// receive hands over what comes until the call ends, which frees the stream.
func (t *tunnel) receive() {
	defer t.cancel()
	ended := false
	for {
		f := &bulk.Frame{Layout: bulk.Tunnel}
		if err := t.stream.RecvMsg(f); err != nil {
			if !ended || !errors.Is(err, io.EOF) {
				t.fail(tunnelError(err))
			}
			return
		}
		if ended {
			f.Free()
			t.fail(protocolError("a tunnel goes on after its end"))
			return
		}
		if err := t.held.take(len(f.Data)); err != nil {
			f.Free()
			t.fail(err)
			return
		}
		end := f.Varints[bulk.TunnelEnd] != 0
		if len(f.Data) > 0 || t.datagrams && !end {
			select {
			case t.in <- f:
			case <-t.closed:
				// Nobody will read it: TCP answers with a reset too.
				t.free(f)
				t.fail(net.ErrClosed)
				return
			case <-t.broken:
				t.free(f)
				return
			}
		}
		if end {
			ended = true
			close(t.gotEnd)
		}
	}
}

// held counts the bytes of all tunnels of a guest that came and that nobody has read.
type held struct {
	most  int64
	bytes atomic.Int64
}

// take counts the data of one segment.
func (h *held) take(n int) error {
	if n > bulk.MaxSegment {
		return protocolError("a segment of %d bytes", n)
	}
	if h.bytes.Add(int64(n)) > h.most {
		h.bytes.Add(-int64(n))
		return fmt.Errorf("%w (connections hold %d MiB that nobody reads)", syscall.ECONNRESET, h.most>>20)
	}
	return nil
}

// free ends the use of a segment that was received.
func (t *tunnel) free(f *bulk.Frame) {
	t.held.bytes.Add(-int64(len(f.Data)))
	f.Free()
}

// outgoing is what one write left.
type outgoing struct {
	data   []byte
	buffer *[bulk.MaxSegment]byte // what data is a part of, if it is to be given back
}

// send sends what Write left until the end of the direction.
func (t *tunnel) send() {
	f := &bulk.Frame{Layout: bulk.Tunnel}
	for {
		select {
		case o := <-t.out:
			if !t.sendData(f, o) {
				return
			}
		case <-t.writeEnd:
			select {
			case o := <-t.out:
				if !t.sendData(f, o) {
					return
				}
			default:
			}
			select {
			case <-t.broken: // no end in order, whatever Close said after that
				return
			default:
			}
			f.Data, f.Varints[bulk.TunnelEnd] = nil, 1
			if t.stream.SendMsg(f) == nil {
				t.stream.CloseSend()
			}
			return
		case <-t.broken:
			return
		}
	}
}

// sendData reports whether it could. Why it could not, the receiver learns.
func (t *tunnel) sendData(f *bulk.Frame, o outgoing) bool {
	f.Data = o.data
	err := t.stream.SendMsg(f)
	bulk.PutSegment(o.buffer)
	return err == nil
}

// fail ends the connection with err, the first time.
func (t *tunnel) fail(err error) {
	t.breakOnce.Do(func() {
		t.err = err
		close(t.broken)
		t.cancel()
	})
}

// tunnelError makes the end of the call what a socket says.
func tunnelError(err error) error {
	if errors.Is(err, io.EOF) || status.Code(err) == codes.Aborted {
		return syscall.ECONNRESET
	}
	return fmt.Errorf("%w (the tunnel broke: %v)", syscall.ECONNRESET, err)
}

// opError wraps err as the net package does.
func (t *tunnel) opError(op string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return &net.OpError{Op: op, Net: t.remote.Network(), Source: t.local, Addr: t.remote, Err: err}
}

// Read reads what came, in order; io.EOF when the guest ended its direction.
func (t *tunnel) Read(p []byte) (int, error) {
	t.readMu.Lock()
	defer t.readMu.Unlock()
	if err := t.next(len(p) > 0); err != nil {
		return 0, t.opError("read", err)
	}
	n := copy(p, t.rest)
	t.rest = t.rest[n:]
	if t.datagrams && len(p) > 0 {
		t.rest = nil
	}
	t.release()
	return n, nil
}

// release gives the buffer back once all of it was read.
func (t *tunnel) release() {
	if len(t.rest) == 0 && t.current != nil {
		t.free(t.current)
		t.current = nil
	}
}

// next sees to it that rest is the next unread data, and waits for it if wait is
// set.
func (t *tunnel) next(wait bool) error {
	select {
	case <-t.closed:
		return net.ErrClosed
	case <-t.readDeadline.passed():
		return os.ErrDeadlineExceeded
	default:
	}
	if t.current != nil || !wait {
		return nil
	}
	select {
	case t.current = <-t.in:
		t.rest = t.current.Data
		return nil
	case <-t.gotEnd:
		return io.EOF
	case <-t.closed:
		return net.ErrClosed
	case <-t.broken:
		return t.err
	case <-t.readDeadline.passed():
		return os.ErrDeadlineExceeded
	}
}

// WriteTo writes all that comes to w, without a copy in between.
func (t *tunnel) WriteTo(w io.Writer) (int64, error) {
	t.readMu.Lock()
	defer t.readMu.Unlock()
	var sum int64
	for {
		if err := t.next(true); errors.Is(err, io.EOF) {
			return sum, nil
		} else if err != nil {
			return sum, t.opError("read", err)
		}
		n, err := w.Write(t.rest)
		sum += int64(n)
		t.rest = t.rest[n:]
		t.release()
		if err != nil {
			return sum, err
		}
	}
}

// Write leaves a copy of p with the sender. As with a socket, success does not
// mean that the guest has it.
func (t *tunnel) Write(p []byte) (int, error) {
	if t.datagrams && len(p) > bulk.MaxSegment {
		return 0, t.opError("write", syscall.EMSGSIZE)
	}
	t.writeMu.Lock()
	defer t.writeMu.Unlock()
	sum := 0
	for {
		n := min(len(p), bulk.MaxSegment)
		if n == 0 && !t.datagrams {
			return sum, t.opError("write", t.mayWrite())
		}
		var o outgoing
		if n <= bulk.SmallSegment {
			o.data = append(o.data, p[:n]...)
		} else {
			o.buffer = bulk.GetSegment()
			o.data = o.buffer[:copy(o.buffer[:], p)]
		}
		if err := t.leave(o); err != nil {
			return sum, t.opError("write", err)
		}
		sum += n
		if p = p[n:]; len(p) == 0 {
			return sum, nil
		}
	}
}

// ReadFrom writes all that r gives, with one copy less than Write. While r gives
// little it holds little memory.
func (t *tunnel) ReadFrom(r io.Reader) (int64, error) {
	var sum int64
	small := make([]byte, bulk.SmallSegment)
	large := false
	for {
		var n int
		var err, writeErr error
		if large && !t.datagrams {
			o := outgoing{buffer: bulk.GetSegment()}
			n, err = r.Read(o.buffer[:])
			if o.data = o.buffer[:n]; n > 0 {
				t.writeMu.Lock()
				writeErr = t.opError("write", t.leave(o))
				t.writeMu.Unlock()
			} else {
				bulk.PutSegment(o.buffer)
			}
			large = n >= len(small)
		} else {
			if t.datagrams && len(small) < bulk.MaxSegment {
				small = make([]byte, bulk.MaxSegment)
			}
			if n, err = r.Read(small); n > 0 || err == nil && t.datagrams {
				_, writeErr = t.Write(small[:n])
			}
			large = n == len(small)
		}
		sum += int64(n)
		switch {
		case writeErr != nil:
			return sum, writeErr
		case errors.Is(err, io.EOF):
			return sum, nil
		case err != nil:
			return sum, err
		}
	}
}

// mayWrite returns why a write would fail at once, or nil.
func (t *tunnel) mayWrite() error {
	select {
	case <-t.closed:
		return net.ErrClosed
	case <-t.writeEnd:
		return syscall.EPIPE
	case <-t.broken:
		return t.err
	case <-t.writeDeadline.passed():
		return os.ErrDeadlineExceeded
	default:
		return nil
	}
}

// leave leaves o, which it keeps, with the sender.
func (t *tunnel) leave(o outgoing) error {
	if err := t.mayWrite(); err != nil {
		return err
	}
	select {
	case t.out <- o:
		return nil
	case <-t.closed:
		return net.ErrClosed
	case <-t.writeEnd:
		return syscall.EPIPE
	case <-t.broken:
		return t.err
	case <-t.writeDeadline.passed():
		return os.ErrDeadlineExceeded
	}
}

// CloseWrite ends this side's direction: the guest reads to its end what was
// written. Reading goes on.
func (t *tunnel) CloseWrite() error {
	t.endOnce.Do(func() { close(t.writeEnd) })
	return nil
}

// Close ends both directions. What was written before is sent, in the
// background unless SetLinger says otherwise.
func (t *tunnel) Close() error {
	t.closeOnce.Do(func() {
		linger, wait := tunnelLinger, false
		if sec := t.linger.Load(); sec > 0 {
			linger, wait = time.Duration(sec-1)*time.Second, true
		}
		if linger == 0 {
			t.fail(net.ErrClosed)
		}
		close(t.closed)
		go t.discard()
		t.CloseWrite()
		timer := time.AfterFunc(linger, func() { t.fail(net.ErrClosed) })
		context.AfterFunc(t.stream.Context(), func() { timer.Stop() })
		if wait {
			<-t.stream.Context().Done()
		}
	})
	return nil
}

// discard gives back what was received and is not going to be read.
func (t *tunnel) discard() {
	t.readMu.Lock()
	defer t.readMu.Unlock()
	t.rest = nil
	t.release()
}

// SetLinger says what Close does, as that of *net.TCPConn: with 0 it breaks the
// connection off; with more it waits so many seconds at most until the guest
// has got what was written, and has ended its direction too. Less than 0 is the
// default.
func (t *tunnel) SetLinger(sec int) error {
	t.linger.Store(int64(max(sec, -1)) + 1)
	return nil
}

// Reset breaks the connection off, so that its end in the guest is told.
func (t *tunnel) Reset() error {
	t.fail(net.ErrClosed)
	return t.Close()
}

func (t *tunnel) LocalAddr() net.Addr  { return t.local }
func (t *tunnel) RemoteAddr() net.Addr { return t.remote }

func (t *tunnel) SetDeadline(d time.Time) error {
	t.readDeadline.set(d)
	t.writeDeadline.set(d)
	return nil
}

func (t *tunnel) SetReadDeadline(d time.Time) error {
	t.readDeadline.set(d)
	return nil
}

func (t *tunnel) SetWriteDeadline(d time.Time) error {
	t.writeDeadline.set(d)
	return nil
}
