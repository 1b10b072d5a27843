package carriers

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/vsockrpc/vsockrpc/rpc"
)

// echoService has one bidirectional method. It answers each message with itself,
// the metadata "want" with a header and a trailer of the same value, and ends
// with the status named by "end", if there is one.
var echoService = grpc.ServiceDesc{
	ServiceName: "test.Echo",
	HandlerType: (*any)(nil),
	Streams:     []grpc.StreamDesc{{StreamName: "Call", ClientStreams: true, ServerStreams: true, Handler: echo}},
}

func echo(_ any, stream grpc.ServerStream) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	if v := md.Get("want"); len(v) > 0 {
		stream.SetHeader(metadata.Pairs("header", v[0]))
		stream.SetTrailer(metadata.Pairs("trailer", v[0]))
	}
	for {
		m := new(wrapperspb.BytesValue)
		if err := stream.RecvMsg(m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		if err := stream.SendMsg(m); err != nil {
			return err
		}
	}
	if len(md.Get("end")) > 0 {
		return status.Error(codes.DataLoss, "as asked")
	}
	return nil
}

// TestRPC runs one suite of calls over every carrier and both wires. In the lab
// (VSOCKRPC_LAB=uml) native vsock is among the carriers.
func TestRPC(t *testing.T) {
	wires := map[string]func(testing.TB, Dial) grpc.ClientConnInterface{
		"native": func(tb testing.TB, dial Dial) grpc.ClientConnInterface {
			c := rpc.NewClient(dial, nil)
			tb.Cleanup(func() { c.Close() })
			return c
		},
		"http2": func(tb testing.TB, dial Dial) grpc.ClientConnInterface {
			cc, err := grpc.NewClient("passthrough:///carrier", grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }))
			if err != nil {
				tb.Fatal(err)
			}
			tb.Cleanup(func() { cc.Close() })
			return cc
		},
	}
	for _, c := range All(t) {
		for wire, connect := range wires {
			t.Run(c.Name+"/"+wire, func(t *testing.T) {
				l, dial := c.Listen(t)
				s := rpc.NewServer(nil)
				s.RegisterService(&echoService, nil)
				served := make(chan error, 1)
				go func() { served <- s.Serve(l) }()
				cc := connect(t, dial)
				for name, test := range suite {
					t.Run(name, func(t *testing.T) { test(t, cc) })
				}
				s.Stop()
				if err := <-served; err != nil {
					t.Errorf("Serve: %v", err)
				}
			})
		}
	}
}

func call(ctx context.Context, t *testing.T, cc grpc.ClientConnInterface) grpc.ClientStream {
	t.Helper()
	stream, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Echo/Call")
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

var suite = map[string]func(*testing.T, grpc.ClientConnInterface){
	"messages of all sizes": func(t *testing.T, cc grpc.ClientConnInterface) {
		stream := call(t.Context(), t, cc)
		for _, size := range []int{0, 1, 64, 4 << 10, 64 << 10, 1 << 20, 3 << 20, 5} {
			sent := bytes.Repeat([]byte{byte(size + 1)}, size)
			if err := stream.SendMsg(wrapperspb.Bytes(sent)); err != nil {
				t.Fatal(err)
			}
			m := new(wrapperspb.BytesValue)
			if err := stream.RecvMsg(m); err != nil || !bytes.Equal(m.Value, sent) {
				t.Fatalf("%d bytes: %d came back, %v", size, len(m.Value), err)
			}
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if err := stream.RecvMsg(new(wrapperspb.BytesValue)); !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %v, want io.EOF", err)
		}
	},
	"metadata and status": func(t *testing.T, cc grpc.ClientConnInterface) {
		stream := call(metadata.AppendToOutgoingContext(t.Context(), "want", "value", "end", "badly"), t, cc)
		stream.CloseSend()
		if err := stream.RecvMsg(new(wrapperspb.BytesValue)); status.Code(err) != codes.DataLoss || status.Convert(err).Message() != "as asked" {
			t.Errorf("status %v", err)
		}
		header, err := stream.Header()
		if err != nil || len(header.Get("header")) != 1 || header.Get("header")[0] != "value" {
			t.Errorf("header %v, %v", header, err)
		}
		if trailer := stream.Trailer(); len(trailer.Get("trailer")) != 1 || trailer.Get("trailer")[0] != "value" {
			t.Errorf("trailer %v", trailer)
		}
	},
	"deadline": func(t *testing.T, cc grpc.ClientConnInterface) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		stream, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Echo/Call")
		if err == nil {
			err = stream.RecvMsg(new(wrapperspb.BytesValue))
		}
		if status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("%v, want DeadlineExceeded", err)
		}
	},
	"cancel": func(t *testing.T, cc grpc.ClientConnInterface) {
		ctx, cancel := context.WithCancel(t.Context())
		stream := call(ctx, t, cc)
		cancel()
		if err := stream.RecvMsg(new(wrapperspb.BytesValue)); status.Code(err) != codes.Canceled {
			t.Errorf("%v, want Canceled", err)
		}
	},
	"unknown method": func(t *testing.T, cc grpc.ClientConnInterface) {
		err := cc.Invoke(t.Context(), "/test.Echo/None", new(wrapperspb.BytesValue), new(wrapperspb.BytesValue))
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("%v, want Unimplemented", err)
		}
	},
}
