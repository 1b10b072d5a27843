package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/vsockrpc/vsockrpc/internal/wait"
	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// oldCodec is a codec as it was before encoding.Codec.
type oldCodec struct{ shout }

func (oldCodec) String() string { return "shout" }

// namelessCodec is one that is not registered.
type namelessCodec struct{ shout }

func (namelessCodec) Name() string { return "nobody-knows" }

// TestCallOptions has each option that has no test of its own do what it does over
// HTTP/2: what a generated stub passes on must mean the same on both wires.
func TestCallOptions(t *testing.T) {
	e := &echo{unary: func(ctx context.Context, in *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		if string(in.Value) == "authority" {
			return value(strings.Join(md[":authority"], ",")), nil
		}
		if len(in.Value) == 0 {
			return nil, status.Error(codes.InvalidArgument, "empty")
		}
		return in, nil
	}}
	onBoth(t, e, nil, func(t *testing.T, cc grpc.ClientConnInterface) {
		for _, tc := range []struct {
			name, in, want string
			opts           []grpc.CallOption
		}{
			//lint:ignore SA1019 deprecated, and programs use it still
			{"CallCustomCodec", "loud", "LOUD", []grpc.CallOption{grpc.CallCustomCodec(oldCodec{}), grpc.CallContentSubtype("shout")}},
			{"StaticMethod", "x", "x", []grpc.CallOption{grpc.StaticMethod()}},
			{"MaxRetryRPCBufferSize", "x", "x", []grpc.CallOption{grpc.MaxRetryRPCBufferSize(1 << 10)}},
			{"WaitForReady", "x", "x", []grpc.CallOption{grpc.WaitForReady(true)}},
			{"EmptyCallOption", "x", "x", []grpc.CallOption{grpc.EmptyCallOption{}}},
			{"CallAuthority", "authority", "guest", []grpc.CallOption{grpc.CallAuthority("guest")}},
			{"CallContentSubtype", "loud", "LOUD", []grpc.CallOption{grpc.CallContentSubtype("Shout")}},
			{"ForceCodec", "loud", "LOUD", []grpc.CallOption{grpc.ForceCodec(shout{})}},
			{"ForceCodecV2", "quiet", "quiet", []grpc.CallOption{grpc.ForceCodecV2(encoding.GetCodecV2(proto.Name))}},
			{"the last of two counts", "xxxxx", "xxxxx", []grpc.CallOption{grpc.MaxCallSendMsgSize(1), grpc.MaxCallSendMsgSize(100)}},
		} {
			if out, err := call(t, cc, tc.in, tc.opts...); err != nil || out != tc.want {
				t.Errorf("%s: %q, %v, want %q", tc.name, out, err, tc.want)
			}
		}
		for in, want := range map[string]codes.Code{"x": codes.OK, "": codes.InvalidArgument} {
			var ended []error
			_, err := call(t, cc, in, grpc.OnFinish(func(err error) { ended = append(ended, err) }), grpc.OnFinish(func(err error) { ended = append(ended, err) }))
			if len(ended) != 2 || status.Code(ended[0]) != want || status.Code(ended[1]) != want || status.Code(err) != want {
				t.Errorf("OnFinish: called with %v, the call ended with %v", ended, err)
			}
		}
		st, err := cc.NewStream(t.Context(), bothDesc, "/test.Echo/Both", grpc.CallContentSubtype("shout"))
		if err != nil {
			t.Fatal(err)
		}
		var out wrapperspb.BytesValue
		if err := st.SendMsg(value("loud")); err != nil {
			t.Fatal(err)
		}
		if err := st.RecvMsg(&out); err != nil || string(out.Value) != "LOUD" {
			t.Errorf("CallContentSubtype of a stream: %q, %v", out.Value, err)
		}
		if _, err := call(t, cc, "x", grpc.ForceCodec(namelessCodec{})); status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "nobody-knows") {
			t.Errorf("a codec that the server does not have: %v", err)
		}
		st, err = cc.NewStream(t.Context(), bothDesc, "/test.Echo/Both", grpc.ForceCodec(namelessCodec{}))
		if err != nil {
			t.Fatal(err)
		}
		if err := st.RecvMsg(&out); status.Code(err) != codes.Unimplemented {
			t.Errorf("a stream with a codec that the server does not have: %v", err)
		}
		st, err = cc.NewStream(t.Context(), bothDesc, "/test.Echo/Both", grpc.MaxCallRecvMsgSize(10))
		if err != nil {
			t.Fatal(err)
		}
		if err := st.SendMsg(value(strings.Repeat("x", 20))); err != nil {
			t.Fatal(err)
		}
		if err := st.RecvMsg(new(wrapperspb.BytesValue)); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("MaxCallRecvMsgSize of a stream: %v", err)
		}
	})
}

// TestGracefulStop: calls in flight end as if nothing had happened, new ones are
// not taken, and GracefulStop returns when the last has ended.
func TestGracefulStop(t *testing.T) {
	for _, which := range connections {
		t.Run(which, func(t *testing.T) {
			started, release := make(chan struct{}), make(chan struct{})
			e := &echo{unary: func(_ context.Context, in *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
				close(started)
				<-release
				return in, nil
			}}
			s := newEchoServer(e, serverConfigFor(which))
			cc := clientFor(t, serveFor(t, s, which), which)
			st, err := cc.NewStream(t.Context(), bothDesc, "/test.Echo/Both")
			if err != nil {
				t.Fatal(err)
			}
			var out wrapperspb.BytesValue
			if err := st.SendMsg(value("before")); err != nil {
				t.Fatal(err)
			}
			if err := st.RecvMsg(&out); err != nil {
				t.Fatal(err)
			}
			unary := make(chan error, 1)
			go func() {
				out, err := call(t, cc, "in flight")
				if err == nil && out != "in flight" {
					err = fmt.Errorf("the answer is %q", out)
				}
				unary <- err
			}()
			<-started
			var stopped atomic.Bool
			done := make(chan struct{})
			go func() {
				defer close(done)
				s.GracefulStop()
				stopped.Store(true)
			}()
			// Once the client has heard of it there is no server for a new call.
			wait.For(t, "new calls are refused", func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				err := cc.Invoke(ctx, "/test.Echo/None", value("x"), new(wrapperspb.BytesValue))
				return status.Code(err) == codes.Unavailable
			})
			if err := st.SendMsg(value("after")); err != nil {
				t.Errorf("a message of a stream in flight: %v", err)
			}
			if err := st.RecvMsg(&out); err != nil || string(out.Value) != "after" {
				t.Errorf("its answer: %q, %v", out.Value, err)
			}
			if stopped.Load() {
				t.Error("GracefulStop has returned before the calls")
			}
			close(release)
			if err := <-unary; err != nil {
				t.Errorf("the call in flight: %v", err)
			}
			if err := st.CloseSend(); err != nil {
				t.Errorf("CloseSend: %v", err)
			}
			if err := st.RecvMsg(&out); !errors.Is(err, io.EOF) {
				t.Errorf("the end of the stream: %v", err)
			}
			<-done
		})
	}
}

// TestClientState follows the state of a client through a connection's life.
func TestClientState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := wireClient(t, &ClientConfig{Keepalive: Keepalive{Time: -1}})
		want := func(s connectivity.State) {
			t.Helper()
			synctest.Wait()
			if got := c.State(); got != s {
				t.Errorf("state %v, want %v", got, s)
			}
		}
		want(connectivity.Idle)
		changed := make(chan bool, 1)
		go func() { changed <- c.WaitForStateChange(t.Context(), connectivity.Idle) }()
		synctest.Wait()
		c.Connect()
		if !<-changed {
			t.Error("WaitForStateChange has not seen the change")
		}
		p.greeted()
		want(connectivity.Connecting)
		if _, ok := c.Hello(); ok {
			t.Error("a HELLO before there was one")
		}
		p.send(wire.AppendPreface(nil, wire.Hello{Info: wire.Info{Software: "peer/1", BootID: "b", Generation: "g"}, StreamWindow: wire.InitialStreamWindow, ConnWindow: wire.InitialConnWindow}))
		want(connectivity.Ready)
		if h, ok := c.Hello(); !ok || h.Software != "peer/1" || h.BootID != "b" || h.Generation != "g" {
			t.Errorf("HELLO %+v, %v", h, ok)
		}
		p.nc.Close()
		synctest.Wait()
		if got := c.State(); got != connectivity.Idle && got != connectivity.TransientFailure {
			t.Errorf("state %v after the connection was lost", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if c.WaitForStateChange(ctx, c.State()) {
			t.Errorf("it changed to %v by itself", c.State())
		}
		c.Close()
		want(connectivity.Shutdown)
	})
}
