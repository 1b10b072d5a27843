package rpctest

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/rpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Types of frames, flags and codes, as PROTOCOL.md numbers them.
const (
	tHELLO, tOPEN, tHEADER, tDATA, tEND, tRESET, tCREDIT, tPING, tGOAWAY = 1, 2, 3, 4, 5, 6, 7, 8, 9

	fHEAD, fMSG, fMORE, fCLOSE = 1, 2, 4, 8

	cPROTOCOL, cFLOW, cFLOOD = 1, 3, 9
)

const magic = "VSOCKRPC/1\r\n\r\n\x00\xff"

// fr encodes a frame.
func fr(typ, flags byte, stream uint32, payload ...byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload)))
	b = append(b, typ, flags, 0, 0)
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

// item encodes an item of a head.
func item(tag byte, v string) []byte {
	return append(binary.AppendUvarint([]byte{tag}, uint64(len(v))), v...)
}

// head encodes a head, with its length before it, and what follows it.
func head(items []byte, rest ...byte) []byte {
	return append(append(binary.AppendUvarint(nil, uint64(len(items))), items...), rest...)
}

// open encodes an OPEN of a method of the test's service, with more items.
func open(stream uint32, flags byte, method string, more ...byte) []byte {
	return fr(tOPEN, flags|fHEAD, stream, head(append(item(1, "/a.B/"+method), more...))...)
}

func u32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// rawPeer is one side of a connection, played by a test.
type rawPeer struct {
	t  *testing.T
	nc net.Conn
}

func (p *rawPeer) send(b ...[]byte) {
	p.t.Helper()
	if _, err := p.nc.Write(bytes.Join(b, nil)); err != nil {
		p.t.Errorf("write: %v", err)
	}
}

// try sends what the other side may close the connection for in the middle.
func (p *rawPeer) try(b []byte) { _, _ = p.nc.Write(b) }

// want returns the next frame of that type.
func (p *rawPeer) want(typ byte) frame {
	p.t.Helper()
	for {
		f, _, err := readFrame(p.nc)
		if err != nil {
			p.t.Fatalf("read: %v, want a frame of type %d", err, typ)
		}
		if f.typ == typ {
			return f
		}
	}
}

// wantGoAway reads until GOAWAY with that code, and the end of the connection.
func (p *rawPeer) wantGoAway(code uint32) {
	p.t.Helper()
	f := p.want(tGOAWAY)
	if got := binary.BigEndian.Uint32(f.payload[4:]); got != code {
		p.t.Errorf("GOAWAY with code %d, %q, want %d", got, f.payload[8:], code)
	}
	p.wantEOF()
}

func (p *rawPeer) wantEOF() {
	p.t.Helper()
	if n, err := io.Copy(io.Discard, p.nc); err != nil && n > 1<<20 {
		p.t.Errorf("%d bytes and %v, want the end", n, err)
	}
}

// wantAlive shows that the connection goes on.
func (p *rawPeer) wantAlive() {
	p.t.Helper()
	p.send(fr(tPING, 0, 0, []byte("are you?")...))
	if f := p.want(tPING); f.flags != 1 || string(f.payload) != "are you?" {
		p.t.Errorf("PING is answered with %+v", f)
	}
}

// hello sends magic and HELLO.
func (p *rawPeer) hello(items ...byte) { p.send([]byte(magic), fr(tHELLO, 0, 0, items...)) }

func (p *rawPeer) greeted() { readPreface(p.t, p.nc) }

// waits is the service of the rules: C answers, and W waits and receives nothing.
var waits = &grpc.ServiceDesc{
	ServiceName: "a.B", HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "C", Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		return wrapperspb.Bytes(nil), dec(new(wrapperspb.BytesValue))
	}}},
	Streams: []grpc.StreamDesc{{StreamName: "W", ClientStreams: true, ServerStreams: true, Handler: func(_ any, st grpc.ServerStream) error {
		<-st.Context().Done()
		return nil
	}}},
}

// rawClient returns the client's end of a connection to a server, before the preface.
func rawClient(t *testing.T, cfg *rpc.ServerConfig) *rawPeer {
	t.Helper()
	lis, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	if cfg == nil {
		cfg = &rpc.ServerConfig{}
	}
	cfg.Logger = slog.New(slog.DiscardHandler)
	s := rpc.NewServer(cfg)
	s.RegisterService(waits, nil)
	go func() { _ = s.Serve(lis) }()
	t.Cleanup(s.Stop)
	nc, err := net.Dial("unix", lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(30 * time.Second))
	return &rawPeer{t, nc}
}

// rawServer is the server's end of a connection of a client.
type rawServer struct {
	rawPeer
	client *rpc.Client
	lis    net.Listener
	ended  chan error // of the calls of invoke and stream
}

// newRawServer returns a server whose client has not connected yet.
func newRawServer(t *testing.T, cfg *rpc.ClientConfig) *rawServer {
	t.Helper()
	lis, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lis.Close() })
	c := rpc.NewClient(func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", lis.Addr().String())
	}, cfg)
	t.Cleanup(func() { c.Close() })
	return &rawServer{rawPeer: rawPeer{t: t}, client: c, lis: lis, ended: make(chan error, 16)}
}

// accept takes the client's connection and reads its preface.
func (p *rawServer) accept() {
	p.t.Helper()
	nc, err := p.lis.Accept()
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(30 * time.Second))
	p.nc = nc
	p.greeted()
}

// invoke makes a unary call.
func (p *rawServer) invoke() {
	go func() {
		p.ended <- p.client.Invoke(p.t.Context(), "/a.B/C", wrapperspb.Bytes(nil), new(wrapperspb.BytesValue))
	}()
}

// stream makes a call of messages in both directions, which does not read them; half
// says to send nothing more.
func (p *rawServer) stream(half bool) {
	go func() {
		st, err := p.client.NewStream(p.t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/a.B/W")
		if err == nil && half {
			err = st.CloseSend()
		}
		if err == nil {
			<-st.Context().Done()
		}
		p.ended <- err
	}()
}

// begun is a server with a unary call on stream 1.
func begun(t *testing.T, cfg *rpc.ClientConfig) *rawServer {
	t.Helper()
	p := newRawServer(t, cfg)
	p.invoke()
	p.accept()
	p.want(tOPEN)
	p.hello()
	return p
}

// wantStatus waits for the call of invoke.
func (p *rawServer) wantStatus(code codes.Code) {
	p.t.Helper()
	select {
	case err := <-p.ended:
		if status.Code(err) != code {
			p.t.Errorf("the call ended with %v, want %v", err, code)
		}
	case <-time.After(30 * time.Second):
		p.t.Errorf("the call hangs, want %v", code)
	}
}

// Ways to break a rule, and what comes of it.

// toServer sends frames to a server, after the preface, and wants GOAWAY.
func toServer(code uint32, frames ...[]byte) func(*testing.T) {
	return func(t *testing.T) {
		p := rawClient(t, nil)
		p.hello()
		p.greeted()
		p.send(frames...)
		p.wantGoAway(code)
	}
}

// toClient sends frames to a client that has a unary call on stream 1, and wants
// GOAWAY, and the status of the code for the call.
func toClient(code uint32, frames ...[]byte) func(*testing.T) {
	return func(t *testing.T) {
		p := begun(t, nil)
		p.send(frames...)
		p.wantGoAway(code)
		want := codes.Internal
		if code == cFLOOD {
			want = codes.ResourceExhausted
		}
		p.wantStatus(want)
	}
}
