package rpc

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// blob is a BytesMessage that stands for wrapperspb.BytesValue.
type blob struct {
	data []byte
	buf  mem.Buffer
}

func (b *blob) MarshalBytes(head []byte) (_, payload []byte, err error) {
	if len(b.data) == 0 {
		return head, nil, nil
	}
	head = protowire.AppendTag(head, 1, protowire.BytesType)
	return protowire.AppendVarint(head, uint64(len(b.data))), b.data, nil
}

func (b *blob) UnmarshalBytes(data mem.Buffer) error {
	b.release()
	p := data.ReadOnlyData()
	for len(p) > 0 {
		num, typ, n := protowire.ConsumeTag(p)
		if n < 0 {
			return protowire.ParseError(n)
		}
		p = p[n:]
		if num == 1 && typ == protowire.BytesType {
			v, n := protowire.ConsumeBytes(p)
			if n < 0 {
				return protowire.ParseError(n)
			}
			b.data, p = v, p[n:]
			continue
		}
		if n = protowire.ConsumeFieldValue(num, typ, p); n < 0 {
			return protowire.ParseError(n)
		}
		p = p[n:]
	}
	data.Ref()
	b.buf = data
	return nil
}

func (b *blob) release() {
	if b.buf != nil {
		b.buf.Free()
	}
	b.buf, b.data = nil, nil
}

// echoDesc is a service of BytesValue messages: Echo and EchoBlob are unary, Up,
// Down and Both are streams that take, give, or take and give messages.
var echoDesc = grpc.ServiceDesc{
	ServiceName: "test.Echo",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{
		{MethodName: "Echo", Handler: echoHandler},
		{MethodName: "EchoBlob", Handler: echoBlobHandler},
	},
	Streams: []grpc.StreamDesc{
		{StreamName: "Up", ClientStreams: true, Handler: upHandler},
		{StreamName: "Down", ServerStreams: true, Handler: downHandler},
		{StreamName: "DownBlob", ServerStreams: true, Handler: downBlobHandler},
		{StreamName: "UpBlob", ClientStreams: true, Handler: upBlobHandler},
		{StreamName: "Both", ClientStreams: true, ServerStreams: true, Handler: bothHandler},
	},
}

func echoHandler(srv any, ctx context.Context, dec func(any) error, i grpc.UnaryServerInterceptor) (any, error) {
	in := new(wrapperspb.BytesValue)
	if err := dec(in); err != nil {
		return nil, err
	}
	h := func(ctx context.Context, req any) (any, error) {
		if e, ok := srv.(*echo); ok && e != nil && e.unary != nil {
			return e.unary(ctx, req.(*wrapperspb.BytesValue))
		}
		return req, nil
	}
	if i == nil {
		return h(ctx, in)
	}
	return i(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: "/test.Echo/Echo"}, h)
}

func echoBlobHandler(_ any, _ context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	in := new(blob)
	if err := dec(in); err != nil {
		return nil, err
	}
	return in, nil // its buffer is left to the collector
}

func upHandler(_ any, st grpc.ServerStream) error {
	n := 0
	for {
		m := new(wrapperspb.BytesValue)
		if err := st.RecvMsg(m); err == io.EOF {
			return st.SendMsg(wrapperspb.Bytes(fmt.Appendf(nil, "%d", n)))
		} else if err != nil {
			return err
		}
		n += len(m.Value)
	}
}

func upBlobHandler(_ any, st grpc.ServerStream) error {
	n := 0
	var m blob
	for {
		if err := st.RecvMsg(&m); err == io.EOF {
			return st.SendMsg(wrapperspb.Bytes(fmt.Appendf(nil, "%d", n)))
		} else if err != nil {
			return err
		}
		n += len(m.data)
		m.release()
	}
}

// downRequest is a count and a size, as text.
func downRequest(count, size int) *wrapperspb.BytesValue {
	return wrapperspb.Bytes(fmt.Appendf(nil, "%d %d", count, size))
}

func downHandler(_ any, st grpc.ServerStream) error {
	var m wrapperspb.BytesValue
	if err := st.RecvMsg(&m); err != nil {
		return err
	}
	var count, size int
	if _, err := fmt.Sscan(string(m.Value), &count, &size); err != nil {
		return err
	}
	data := make([]byte, size)
	for range count {
		if err := st.SendMsg(&wrapperspb.BytesValue{Value: data}); err != nil {
			return err
		}
	}
	return nil
}

func downBlobHandler(_ any, st grpc.ServerStream) error {
	var m wrapperspb.BytesValue
	if err := st.RecvMsg(&m); err != nil {
		return err
	}
	var count, size int
	if _, err := fmt.Sscan(string(m.Value), &count, &size); err != nil {
		return err
	}
	b := blob{data: make([]byte, size)}
	for range count {
		if err := st.SendMsg(&b); err != nil {
			return err
		}
	}
	return nil
}

func bothHandler(srv any, st grpc.ServerStream) error {
	if e, ok := srv.(*echo); ok && e != nil && e.both != nil {
		return e.both(st)
	}
	for {
		m := new(wrapperspb.BytesValue)
		if err := st.RecvMsg(m); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := st.SendMsg(m); err != nil {
			return err
		}
	}
}

// echo lets a test replace what the handlers do.
type echo struct {
	unary func(context.Context, *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error)
	both  func(grpc.ServerStream) error
}

func benchPair(b *testing.B, cfg *ServerConfig) *Client {
	b.Helper()
	s := NewServer(cfg)
	s.RegisterService(&echoDesc, nil)
	dial := serveUnix(b, s)
	c := NewClient(func(ctx context.Context) (net.Conn, error) { return dial(ctx) }, nil)
	b.Cleanup(func() { c.Close() })
	return c
}

func benchUnary(b *testing.B, callers, size int, pooled bool) {
	c := benchPair(b, nil)
	var left sync.WaitGroup
	b.ReportAllocs()
	if size > 1024 {
		b.SetBytes(int64(size))
	}
	if err := c.Invoke(b.Context(), "/test.Echo/Echo", wrapperspb.Bytes(nil), new(wrapperspb.BytesValue)); err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	b.ResetTimer()
	for i := range callers {
		left.Go(func() {
			n := b.N / callers
			if i == 0 {
				n += b.N % callers
			}
			data := make([]byte, size)
			for range n {
				if pooled {
					var out blob
					if err := c.Invoke(ctx, "/test.Echo/EchoBlob", &blob{data: data}, &out); err != nil || len(out.data) != size {
						b.Error(err)
						return
					}
					out.release()
					continue
				}
				out := new(wrapperspb.BytesValue)
				if err := c.Invoke(ctx, "/test.Echo/Echo", &wrapperspb.BytesValue{Value: data}, out); err != nil || len(out.Value) != size {
					b.Error(err)
					return
				}
			}
		})
	}
	left.Wait()
}

func BenchmarkUnary64(b *testing.B) {
	for _, callers := range []int{1, 16, 128} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) { benchUnary(b, callers, 64, false) })
	}
}

func BenchmarkUnary64K(b *testing.B) {
	b.Run("plain", func(b *testing.B) { benchUnary(b, 1, 64<<10, false) })
	b.Run("pooled", func(b *testing.B) { benchUnary(b, 1, 64<<10, true) })
}

func BenchmarkUnary1M(b *testing.B) {
	b.Run("plain", func(b *testing.B) { benchUnary(b, 1, 1<<20, false) })
	b.Run("pooled", func(b *testing.B) { benchUnary(b, 1, 1<<20, true) })
}

func BenchmarkDown(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10} {
		for _, pooled := range []bool{false, true} {
			b.Run(fmt.Sprintf("%dK/pooled=%v", size>>10, pooled), func(b *testing.B) {
				c := benchPair(b, nil)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				name := "/test.Echo/Down"
				if pooled {
					name += "Blob"
				}
				st, err := c.NewStream(b.Context(), &grpc.StreamDesc{ServerStreams: true}, name)
				if err != nil {
					b.Fatal(err)
				}
				if err := st.SendMsg(downRequest(b.N, size)); err != nil {
					b.Fatal(err)
				}
				b.ResetTimer()
				var m blob
				for range b.N {
					if pooled {
						err = st.RecvMsg(&m)
						m.release()
					} else {
						err = st.RecvMsg(new(wrapperspb.BytesValue))
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkUp(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10} {
		for _, pooled := range []bool{false, true} {
			b.Run(fmt.Sprintf("%dK/pooled=%v", size>>10, pooled), func(b *testing.B) {
				c := benchPair(b, nil)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				name := "/test.Echo/Up"
				if pooled {
					name += "Blob"
				}
				st, err := c.NewStream(b.Context(), &grpc.StreamDesc{ClientStreams: true}, name)
				if err != nil {
					b.Fatal(err)
				}
				data := make([]byte, size)
				m := &blob{data: data}
				b.ResetTimer()
				for range b.N {
					if pooled {
						err = st.SendMsg(m)
					} else {
						err = st.SendMsg(&wrapperspb.BytesValue{Value: data})
					}
					if err != nil {
						b.Fatal(err)
					}
				}
				if err := st.CloseSend(); err != nil {
					b.Fatal(err)
				}
				var sum wrapperspb.BytesValue
				if err := st.RecvMsg(&sum); err != nil || string(sum.Value) != fmt.Sprint(b.N*size) {
					b.Fatal(err, sum.Value)
				}
			})
		}
	}
}

// BenchmarkRaw is the limit: a length-prefixed ping-pong of 64 bytes.
func BenchmarkRaw(b *testing.B) {
	lis, err := net.Listen("unix", b.TempDir()+"/s")
	if err != nil {
		b.Fatal(err)
	}
	defer lis.Close()
	go func() {
		c, err := lis.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		buf := make([]byte, 4096)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	c, err := net.Dial("unix", lis.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 76)
	b.ResetTimer()
	for range b.N {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRawBatch is the limit of a stream: writes of 64 KiB.
func BenchmarkRawBatch(b *testing.B) {
	lis, err := net.Listen("unix", b.TempDir()+"/s")
	if err != nil {
		b.Fatal(err)
	}
	defer lis.Close()
	go func() {
		c, err := lis.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		buf := make([]byte, 64<<10)
		for {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	}()
	c, err := net.Dial("unix", lis.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 64<<10)
	b.SetBytes(64 << 10)
	b.ResetTimer()
	for range b.N {
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
}
