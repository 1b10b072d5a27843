package rpc

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/vsockrpc/vsockrpc/rpc/internal/sock"
	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// fuzzTime bounds one run: whatever the bytes, the connection has ended by then.
const fuzzTime = 10 * time.Second

// feed writes b to nc in pieces, reads what comes back, and closes nc.
func feed(nc net.Conn, b []byte) {
	go func() { _, _ = io.Copy(io.Discard, nc) }()
	for len(b) > 0 {
		n := min(len(b), 1+len(b)%97)
		_ = nc.SetWriteDeadline(time.Now().Add(fuzzTime))
		if _, err := nc.Write(b[:n]); err != nil {
			break
		}
		b = b[n:]
	}
	_ = nc.Close()
}

// FuzzServerConn gives a server arbitrary bytes after a valid preface, or instead
// of it.
func FuzzServerConn(f *testing.F) {
	pre := wire.AppendPreface(nil, wire.Hello{StreamWindow: wire.InitialStreamWindow, ConnWindow: wire.InitialConnWindow})
	head := wire.AppendItem(nil, wire.TagMethod, "/test.Echo/Echo")
	open := func(id uint32, flags uint8, msg string) []byte {
		f := sock.Frame{Header: wire.Header{Type: wire.FrameOpen, Stream: id, Method: 1, Flags: flags | wire.FlagHead}, Head: head, Msg: []byte(msg)}
		return f.AppendTo(nil)
	}
	f.Add(true, open(1, wire.FlagMsg|wire.FlagClose, "\x0a\x01x"))
	f.Add(true, append(open(1, 0, ""), wire.AppendReset(nil, 1, wire.CodeCancelled, "")...))
	f.Add(true, append(wire.AppendPing(nil, 0, [8]byte{1}), wire.AppendCredit(nil, 0, 1<<20)...))
	f.Add(true, wire.AppendGoAway(open(1, wire.FlagMsg, ""), 0, wire.CodeNone, ""))
	f.Add(false, append(pre[:20:20], 0))
	f.Add(false, []byte(http2Preface))
	s := NewServer(quiet(nil))
	s.RegisterService(&echoDesc, nil)
	f.Cleanup(s.Stop)
	f.Fuzz(func(t *testing.T, preface bool, b []byte) {
		if preface {
			b = append(append([]byte(nil), pre...), b...)
		}
		a, nc := net.Pipe()
		done := make(chan struct{})
		go func() { defer close(done); s.ServeConn(nc) }()
		feed(a, b)
		select {
		case <-done:
		case <-time.After(fuzzTime):
			t.Fatal("the connection goes on")
		}
		if n := s.budget.held.Load(); n < 0 {
			t.Errorf("%d bytes are held", n)
		}
	})
}

// FuzzClientConn has a server answer a unary call and a stream with arbitrary
// bytes.
func FuzzClientConn(f *testing.F) {
	pre := wire.AppendPreface(nil, wire.Hello{StreamWindow: wire.InitialStreamWindow, ConnWindow: wire.InitialConnWindow})
	end := append(wire.AppendHeader(nil, wire.Header{Type: wire.FrameEnd, Stream: 1, Flags: wire.FlagMsg, Length: 3}), 0x0a, 1, 'x')
	f.Add(true, end)
	f.Add(true, append(wire.AppendHeader(nil, wire.Header{Type: wire.FrameHeader, Stream: 1}), end...))
	f.Add(true, wire.AppendReset(nil, 1, wire.CodeRefused, "no"))
	f.Add(true, wire.AppendGoAway(nil, 0, wire.CodeNone, "later"))
	f.Add(true, append(wire.AppendHeader(nil, wire.Header{Type: wire.FrameData, Stream: 2, Flags: wire.FlagMsg | wire.FlagMore | wire.FlagHead, Length: 6}), 4, wire.TagLength, 1, 9, 1, 2))
	f.Add(false, []byte("HTTP/1.1 400\r\n"))
	f.Fuzz(func(t *testing.T, preface bool, b []byte) {
		if preface {
			b = append(append([]byte(nil), pre...), b...)
		}
		a, nc := net.Pipe()
		first := true
		c := NewClient(func(context.Context) (net.Conn, error) {
			if !first {
				return nil, errors.New("only once")
			}
			first = false
			return a, nil
		}, nil)
		ctx, cancel := context.WithTimeout(context.Background(), fuzzTime)
		defer cancel()
		fed := make(chan struct{})
		go func() { defer close(fed); feed(nc, b) }()
		_ = c.Invoke(ctx, "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue))
		if st, err := c.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Echo/Both"); err == nil {
			_ = st.SendMsg(value("x"))
			_ = st.CloseSend()
			for st.RecvMsg(new(wrapperspb.BytesValue)) == nil {
			}
		}
		if ctx.Err() != nil {
			t.Fatal("a call goes on although the connection has ended")
		}
		_ = c.Close()
		<-fed
	})
}
