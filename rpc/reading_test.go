package rpc

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/vsockrpc/vsockrpc/internal/wait"
)

// inlineStream is a server with one client and one stream, whose handler reads the
// connection.
type inlineStream struct {
	srv    *Server
	cc     grpc.ClientConnInterface
	stream grpc.ClientStream
	pause  chan struct{} // after a message of its own the handler waits for it
	ended  chan error    // how handlers have ended
}

func newInlineStream(t *testing.T, ctx context.Context) *inlineStream {
	l := &inlineStream{srv: newEchoServer(nil, nil), pause: make(chan struct{}), ended: make(chan error, 10)}
	bidi(l.srv, func(ss grpc.ServerStream) (err error) {
		defer func() { l.ended <- err }()
		for {
			var m wrapperspb.BytesValue
			if err := ss.RecvMsg(&m); err != nil {
				return err
			}
			if string(m.Value) == "pause" {
				<-l.pause
			}
			if err := ss.SendMsg(&m); err != nil {
				return err
			}
		}
	})
	l.cc = clientFor(t, serveUnix(t, l.srv), "native/unix")
	var err error
	if l.stream, err = callBidi(ctx, l.cc); err != nil {
		t.Fatal(err)
	}
	l.await(t)
	return l
}

// echo sends a message and receives it again.
func (l *inlineStream) echo(t *testing.T, text string) {
	t.Helper()
	l.send(t, text)
	l.recv(t, text)
}

func (l *inlineStream) send(t *testing.T, text string) {
	t.Helper()
	if err := l.stream.SendMsg(value(text)); err != nil {
		t.Fatal(err)
	}
}

func (l *inlineStream) recv(t *testing.T, text string) {
	t.Helper()
	var m wrapperspb.BytesValue
	if err := l.stream.RecvMsg(&m); err != nil || string(m.Value) != text {
		t.Fatalf("received %q, %v, want %q", m.Value, err, text)
	}
}

// call makes another call on the connection.
func (l *inlineStream) call(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var out wrapperspb.BytesValue
	if err := l.cc.Invoke(ctx, "/test.Echo/Echo", value("hello"), &out); err != nil || string(out.Value) != "hello" {
		t.Fatalf("another call: %q, %v", out.Value, err)
	}
}

// reads reports whether a handler reads the connection.
func (l *inlineStream) reads() bool {
	l.srv.mu.Lock()
	defer l.srv.mu.Unlock()
	for sc := range l.srv.natives {
		sc.mu.Lock()
		defer sc.mu.Unlock()
		return sc.inlineReader != nil
	}
	return false
}

// await exchanges messages until the handler reads the connection.
func (l *inlineStream) await(t *testing.T) {
	t.Helper()
	wait.For(t, "the handler reads the connection", func() bool {
		for range 2 * soleBatches {
			l.echo(t, "again")
		}
		return l.reads()
	})
}

func TestOtherCallsBesideAnInlineReader(t *testing.T) {
	l := newInlineStream(t, t.Context())
	for range 20 {
		l.await(t)
		l.call(t)
		l.echo(t, "still there")
	}
}

// TestBusyInlineReader has the handler that reads the connection turn to something else.
func TestBusyInlineReader(t *testing.T) {
	l := newInlineStream(t, t.Context())
	for range 5 {
		l.await(t)
		l.send(t, "pause")
		l.call(t)
		l.pause <- struct{}{}
		l.recv(t, "pause")
	}
}

// TestCancelledInlineReader ends the call whose handler reads the connection, in each way
// that calls end.
func TestCancelledInlineReader(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(*inlineStream, context.CancelFunc)
		want codes.Code
	}{
		"client": {func(l *inlineStream, cancel context.CancelFunc) { cancel() }, codes.Canceled},
		"close":  {func(l *inlineStream, cancel context.CancelFunc) { _ = l.stream.CloseSend() }, codes.Unknown}, // io.EOF
		"message": {func(l *inlineStream, cancel context.CancelFunc) {
			_ = l.stream.SendMsg(value(string(make([]byte, 5<<20))))
		}, codes.ResourceExhausted},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			l := newInlineStream(t, ctx)
			l.await(t)
			c.end(l, cancel)
			if err := <-l.ended; status.Code(err) != c.want {
				t.Errorf("the handler ended with %v, want %v", err, c.want)
			}
			l.call(t)
		})
	}
}

// TestDeadlineOfAnInlineReader has a deadline that the client does not speak of pass, so
// that it is the server that gets the handler out of its read.
func TestDeadlineOfAnInlineReader(t *testing.T) {
	l := newInlineStream(t, t.Context())
	l.await(t)
	l.srv.mu.Lock()
	for sc := range l.srv.natives {
		sc.mu.Lock()
		for _, s := range sc.streams {
			go s.sv.expire()
		}
		sc.mu.Unlock()
	}
	l.srv.mu.Unlock()
	if err := <-l.ended; status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("the handler ended with %v, want DeadlineExceeded", err)
	}
	l.call(t)
}

func TestStopWithAnInlineReader(t *testing.T) {
	l := newInlineStream(t, t.Context())
	l.await(t)
	l.srv.Stop()
	if err := <-l.ended; status.Code(err) != codes.Unavailable {
		t.Errorf("the handler ended with %v, want Unavailable", err)
	}
}

func TestGracefulStopWithAnInlineReader(t *testing.T) {
	l := newInlineStream(t, t.Context())
	l.await(t)
	stopped := make(chan struct{})
	go func() { l.srv.GracefulStop(); close(stopped) }()
	l.echo(t, "to the end")
	if err := l.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	<-stopped
}

// TestInlineReaderOfADeafClient has the handler that reads the connection send to a
// client that does not receive, which must not fill the server's memory.
func TestInlineReaderOfADeafClient(t *testing.T) {
	l := newInlineStream(t, t.Context())
	l.await(t)
	const n = 200
	big := value(string(make([]byte, 100<<10)))
	sent := make(chan error, 1)
	go func() {
		for range n {
			if err := l.stream.SendMsg(big); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	l.call(t)
	for range n {
		var m wrapperspb.BytesValue
		if err := l.stream.RecvMsg(&m); err != nil || len(m.Value) != 100<<10 {
			t.Fatalf("%d bytes, %v", len(m.Value), err)
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	l.echo(t, "still there")
}
