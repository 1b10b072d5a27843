package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/vsockrpc/vsockrpc/rpc/internal/sock"
	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

var connections = []string{"native/unix", "native/pipe", "native/tls", "http2/unix", "http2/tls"}

// onBoth runs f over both wires and several kinds of connection. What holds for
// one must hold for all.
func onBoth(t *testing.T, e *echo, cfg *ServerConfig, f func(t *testing.T, cc grpc.ClientConnInterface)) {
	t.Helper()
	for _, which := range connections {
		t.Run(which, func(t *testing.T) {
			c := serverConfigFor(which)
			if cfg != nil {
				tls := c.TLS
				*c = *cfg
				c.TLS = tls
			}
			s := NewServer(c)
			s.RegisterService(&echoDesc, e)
			f(t, clientFor(t, serveFor(t, s, which), which))
		})
	}
}

func value(s string) *wrapperspb.BytesValue { return wrapperspb.Bytes([]byte(s)) }

func call(t *testing.T, cc grpc.ClientConnInterface, in string, opts ...grpc.CallOption) (string, error) {
	t.Helper()
	var out wrapperspb.BytesValue
	err := cc.Invoke(t.Context(), "/test.Echo/Echo", value(in), &out, opts...)
	return string(out.Value), err
}

func TestUnarySizes(t *testing.T) {
	onBoth(t, nil, nil, func(t *testing.T, cc grpc.ClientConnInterface) {
		for _, n := range []int{0, 1, 63, 64, 1000, 4 << 10, sock.RefFrom - 3, sock.RefFrom, 64<<10 - 4, 64 << 10, wire.MaxPayload, wire.MaxPayload + 1, 1 << 20, 4<<20 - 5} {
			in := strings.Repeat("x", n)
			if out, err := call(t, cc, in); err != nil || out != in {
				t.Errorf("%d bytes: got %d bytes, %v", n, len(out), err)
			}
		}
	})
}

func TestNilRequestIsAnEmptyMessage(t *testing.T) {
	onBoth(t, nil, nil, func(t *testing.T, cc grpc.ClientConnInterface) {
		var out wrapperspb.BytesValue
		if err := cc.Invoke(t.Context(), "/test.Echo/Echo", (*wrapperspb.BytesValue)(nil), &out); err != nil {
			t.Errorf("typed nil: %v", err)
		}
	})
}

func TestUntypedNilRequest(t *testing.T) {
	// gRPC sends an untyped nil as an empty message; so does this package.
	for _, which := range []string{"native/unix", "http2/unix"} {
		t.Run(which, func(t *testing.T) {
			s := NewServer(nil)
			s.RegisterService(&echoDesc, nil)
			cc := clientFor(t, serveUnix(t, s), which)
			var out wrapperspb.BytesValue
			if err := cc.Invoke(t.Context(), "/test.Echo/Echo", nil, &out); err != nil {
				t.Errorf("untyped nil: %v", err)
			}
		})
	}
}

func TestMetadata(t *testing.T) {
	e := &echo{unary: func(ctx context.Context, in *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		if err := grpc.SetHeader(ctx, metadata.Pairs("H-ascii", "1", "h-bin", string([]byte{0, 255, 10}))); err != nil {
			return nil, err
		}
		if err := grpc.SetTrailer(ctx, metadata.Pairs("t-ascii", "2", "t-bin", "\x00\x01")); err != nil {
			return nil, err
		}
		if m, ok := grpc.Method(ctx); !ok || m != "/test.Echo/Echo" {
			return nil, fmt.Errorf("method %q", m)
		}
		return value(fmt.Sprintf("%q %q %q", md["k"], md["k-bin"], md["missing"])), nil
	}}
	onBoth(t, e, nil, func(t *testing.T, cc grpc.ClientConnInterface) {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "K", "v1", "k", "v2", "k-bin", "\x00\xff")
		var header, trailer metadata.MD
		var out wrapperspb.BytesValue
		if err := cc.Invoke(ctx, "/test.Echo/Echo", value(""), &out, grpc.Header(&header), grpc.Trailer(&trailer)); err != nil {
			t.Fatal(err)
		}
		if want := `["v1" "v2"] ["\x00\xff"] []`; string(out.Value) != want {
			t.Errorf("request metadata %s, want %s", out.Value, want)
		}
		delete(header, "content-type")
		if diff := cmp.Diff(metadata.MD{"h-ascii": {"1"}, "h-bin": {"\x00\xff\n"}}, header); diff != "" {
			t.Error("header", diff)
		}
		if diff := cmp.Diff(metadata.MD{"t-ascii": {"2"}, "t-bin": {"\x00\x01"}}, trailer); diff != "" {
			t.Error("trailer", diff)
		}
	})
}

func TestMetadataLimits(t *testing.T) {
	onBoth(t, nil, nil, func(t *testing.T, cc grpc.ClientConnInterface) {
		if _, err := call(t, cc, "settle"); err != nil {
			t.Fatal(err)
		}
		ctx := metadata.AppendToOutgoingContext(t.Context(), "big", strings.Repeat("x", 15<<10))
		if err := cc.Invoke(ctx, "/test.Echo/Echo", value(""), new(wrapperspb.BytesValue)); err != nil {
			t.Errorf("15 KiB: %v", err)
		}
		ctx = metadata.AppendToOutgoingContext(t.Context(), "big", strings.Repeat("x", 17<<10))
		if err := cc.Invoke(ctx, "/test.Echo/Echo", value(""), new(wrapperspb.BytesValue)); err == nil {
			t.Error("17 KiB: no error")
		}
		if out, err := call(t, cc, "still there"); err != nil || out != "still there" {
			t.Errorf("afterwards: %q, %v", out, err)
		}
	})
}

func TestStatusDetails(t *testing.T) {
	e := &echo{unary: func(_ context.Context, in *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
		st, err := status.New(codes.FailedPrecondition, "not now: ü\n\x1b").WithDetails(&errdetails.ErrorInfo{Reason: "R", Domain: "d"})
		if err != nil {
			return nil, err
		}
		return nil, st.Err()
	}}
	onBoth(t, e, nil, func(t *testing.T, cc grpc.ClientConnInterface) {
		_, err := call(t, cc, "")
		st := status.Convert(err)
		if st.Code() != codes.FailedPrecondition || st.Message() != "not now: ü\n\x1b" {
			t.Errorf("got %v", st)
		}
		if d := st.Details(); len(d) != 1 || d[0].(*errdetails.ErrorInfo).Reason != "R" {
			t.Errorf("details %v", d)
		}
	})
}

func TestPlainErrorsBecomeStatuses(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want codes.Code
	}{
		{errors.New("plain"), codes.Unknown},
		{context.Canceled, codes.Canceled},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{fmt.Errorf("wrapped: %w", status.Error(codes.NotFound, "x")), codes.NotFound},
	} {
		e := &echo{unary: func(context.Context, *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) { return nil, tc.err }}
		onBoth(t, e, nil, func(t *testing.T, cc grpc.ClientConnInterface) {
			if _, err := call(t, cc, ""); status.Code(err) != tc.want {
				t.Errorf("handler's %v came as %v, want %v", tc.err, err, tc.want)
			}
		})
	}
}

func TestSizeLimits(t *testing.T) {
	cfg := &ServerConfig{MaxRecvMsgSize: 1000, MaxSendMsgSize: 2000}
	e := &echo{unary: func(_ context.Context, in *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
		if string(in.Value) == "big" {
			return value(strings.Repeat("x", 3000)), nil
		}
		return in, nil
	}}
	onBoth(t, e, cfg, func(t *testing.T, cc grpc.ClientConnInterface) {
		for _, tc := range []struct {
			name string
			in   string
			opts []grpc.CallOption
		}{
			{"server receives", strings.Repeat("x", 1001), nil},
			{"server receives pieces", strings.Repeat("x", 300<<10), nil},
			{"server sends", "big", nil},
			{"client sends", strings.Repeat("x", 500), []grpc.CallOption{grpc.MaxCallSendMsgSize(100)}},
			{"client receives", strings.Repeat("x", 500), []grpc.CallOption{grpc.MaxCallRecvMsgSize(100)}},
		} {
			if _, err := call(t, cc, tc.in, tc.opts...); status.Code(err) != codes.ResourceExhausted {
				t.Errorf("%s: got %v, want ResourceExhausted", tc.name, err)
			}
		}
		if out, err := call(t, cc, "fine"); err != nil || out != "fine" {
			t.Errorf("afterwards: %q, %v", out, err)
		}
	})
}

func TestDeadlines(t *testing.T) {
	ended := make(chan error, 16)
	e := &echo{unary: func(ctx context.Context, in *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
		d, ok := ctx.Deadline()
		if left := time.Until(d); !ok || left > time.Minute {
			return nil, fmt.Errorf("deadline in %v, %v", left, ok)
		}
		if string(in.Value) == "wait" {
			<-ctx.Done()
			ended <- ctx.Err()
			return nil, ctx.Err()
		}
		return in, nil
	}}
	onBoth(t, e, nil, func(t *testing.T, cc grpc.ClientConnInterface) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := cc.Invoke(ctx, "/test.Echo/Echo", value(""), new(wrapperspb.BytesValue)); err != nil {
			t.Fatal(err)
		}
		// On a slow computer the time may be over before the handler has begun.
		began := false
		for d := 50 * time.Millisecond; !began; d *= 2 {
			ctx, cancel = context.WithTimeout(t.Context(), d)
			err := cc.Invoke(ctx, "/test.Echo/Echo", value("wait"), new(wrapperspb.BytesValue))
			cancel()
			if status.Code(err) != codes.DeadlineExceeded {
				t.Fatalf("got %v, want DeadlineExceeded", err)
			}
			select {
			case err := <-ended:
				if began = true; err == nil {
					t.Error("the handler's context has no error")
				}
			case <-time.After(d):
				if d > time.Minute {
					t.Fatal("the handler has not ended")
				}
			}
		}
		ctx, cancel = context.WithTimeout(t.Context(), -1)
		defer cancel()
		err := cc.Invoke(ctx, "/test.Echo/Echo", value(""), new(wrapperspb.BytesValue))
		if status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("past deadline: got %v, want DeadlineExceeded", err)
		}
	})
}

func TestCancellation(t *testing.T) {
	started, ended := make(chan struct{}), make(chan error, 1)
	e := &echo{both: func(st grpc.ServerStream) error {
		started <- struct{}{}
		err := st.RecvMsg(new(wrapperspb.BytesValue))
		<-st.Context().Done()
		ended <- err
		return st.Context().Err()
	}}
	onBoth(t, e, nil, func(t *testing.T, cc grpc.ClientConnInterface) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		st, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Echo/Both")
		if err != nil {
			t.Fatal(err)
		}
		<-started
		got := make(chan error, 1)
		go func() { got <- st.RecvMsg(new(wrapperspb.BytesValue)) }()
		cancel()
		if err := <-got; status.Code(err) != codes.Canceled {
			t.Errorf("client got %v, want Canceled", err)
		}
		if err := <-ended; status.Code(err) != codes.Canceled {
			t.Errorf("handler got %v, want Canceled", err)
		}
	})
}

func TestHalfCloseAndTrailers(t *testing.T) {
	e := &echo{both: func(st grpc.ServerStream) error {
		if err := st.SendHeader(metadata.Pairs("early", "yes")); err != nil {
			return err
		}
		n := 0
		for {
			if err := st.RecvMsg(new(wrapperspb.BytesValue)); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return err
			}
			n++
		}
		st.SetTrailer(metadata.Pairs("count", fmt.Sprint(n)))
		for range n {
			if err := st.SendMsg(value("back")); err != nil {
				return err
			}
		}
		return status.Error(codes.Aborted, "enough")
	}}
	onBoth(t, e, nil, func(t *testing.T, cc grpc.ClientConnInterface) {
		st, err := cc.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Echo/Both")
		if err != nil {
			t.Fatal(err)
		}
		// The header comes before anything was sent.
		if md, err := st.Header(); err != nil || len(md["early"]) != 1 {
			t.Fatalf("header %v, %v", md, err)
		}
		for range 5 {
			if err := st.SendMsg(value("there")); err != nil {
				t.Fatal(err)
			}
		}
		if err := st.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if err := st.CloseSend(); err != nil {
			t.Errorf("second CloseSend: %v", err)
		}
		for range 5 {
			if err := st.RecvMsg(new(wrapperspb.BytesValue)); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if err := st.RecvMsg(new(wrapperspb.BytesValue)); status.Code(err) != codes.Aborted {
				t.Fatalf("got %v, want Aborted", err)
			}
		}
		if diff := cmp.Diff(metadata.MD{"count": {"5"}}, st.Trailer()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestSendAfterTheEnd(t *testing.T) {
	e := &echo{both: func(st grpc.ServerStream) error { return status.Error(codes.NotFound, "gone") }}
	onBoth(t, e, nil, func(t *testing.T, cc grpc.ClientConnInterface) {
		st, err := cc.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Echo/Both")
		if err != nil {
			t.Fatal(err)
		}
		for {
			if err = st.SendMsg(value("x")); err != nil {
				break
			}
		}
		if !errors.Is(err, io.EOF) {
			t.Errorf("SendMsg: %v, want io.EOF", err)
		}
		if err := st.RecvMsg(new(wrapperspb.BytesValue)); status.Code(err) != codes.NotFound {
			t.Errorf("RecvMsg: %v, want NotFound", err)
		}
	})
}

func TestUnknown(t *testing.T) {
	onBoth(t, nil, nil, func(t *testing.T, cc grpc.ClientConnInterface) {
		for method, want := range map[string]string{
			"/test.Echo/Nope": "unknown method Nope for service test.Echo",
			"/test.None/Nope": "unknown service test.None",
		} {
			err := cc.Invoke(t.Context(), method, value(""), new(wrapperspb.BytesValue))
			if st := status.Convert(err); st.Code() != codes.Unimplemented || st.Message() != want {
				t.Errorf("%s: got %v, want %q", method, err, want)
			}
		}
	})
	cfg := &ServerConfig{UnknownServiceHandler: func(_ any, st grpc.ServerStream) error {
		m, _ := grpc.MethodFromServerStream(st)
		var in wrapperspb.BytesValue
		if err := st.RecvMsg(&in); err != nil {
			return err
		}
		return st.SendMsg(value(m + string(in.Value)))
	}}
	onBoth(t, nil, cfg, func(t *testing.T, cc grpc.ClientConnInterface) {
		var out wrapperspb.BytesValue
		if err := cc.Invoke(t.Context(), "/a.B/C", value("!"), &out); err != nil || string(out.Value) != "/a.B/C!" {
			t.Errorf("got %q, %v", out.Value, err)
		}
	})
}
