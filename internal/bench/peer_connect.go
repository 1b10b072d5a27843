package main

import (
	"context"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect"

	"github.com/vsockrpc/vsockrpc/internal/bench/benchpb"
)

const (
	connectEcho = "/vsockrpc.bench.Bench/Echo"
	connectDown = "/vsockrpc.bench.Bench/Down"
	connectUp   = "/vsockrpc.bench.Bench/Up"
)

// connectPeer is connect-go with its own protocol over net/http's HTTP/2.
// Its stubs are written by hand as protoc-gen-connect-go writes them.
var connectPeer = &peer{
	name:  "connect",
	about: "connect-go, Connect protocol over net/http's HTTP/2 without TLS; windows of almost 4 MiB (the most it takes), compression off",
	serve: func(l net.Listener) error {
		off := connect.WithCompression("gzip", nil, nil)
		mux := http.NewServeMux()
		mux.Handle(connectEcho, connect.NewUnaryHandler(connectEcho,
			func(_ context.Context, m *connect.Request[benchpb.Msg]) (*connect.Response[benchpb.Msg], error) {
				return connect.NewResponse(&benchpb.Msg{Data: m.Msg.GetData()}), nil
			}, off))
		mux.Handle(connectDown, connect.NewServerStreamHandler(connectDown,
			func(_ context.Context, m *connect.Request[benchpb.Msg], stream *connect.ServerStream[benchpb.Msg]) error {
				payload, more, err := downPayload(m.Msg.GetData())
				if err != nil {
					return err
				}
				for more() {
					if err := stream.Send(&benchpb.Msg{Data: payload}); err != nil {
						return err
					}
				}
				return nil
			}, off))
		mux.Handle(connectUp, connect.NewClientStreamHandler(connectUp,
			func(_ context.Context, stream *connect.ClientStream[benchpb.Msg]) (*connect.Response[benchpb.Msg], error) {
				for stream.Receive() {
				}
				return connect.NewResponse(&benchpb.Msg{}), stream.Err()
			}, off))
		s := &http.Server{Handler: mux, Protocols: plainHTTP2(), HTTP2: connectHTTP2()}
		return s.Serve(l)
	},
	connect: func(path string) (client, error) {
		t := &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", path)
			},
			Protocols:          plainHTTP2(),
			HTTP2:              connectHTTP2(),
			DisableCompression: true,
		}
		hc, off := &http.Client{Transport: t}, connect.WithAcceptCompression("gzip", nil, nil)
		stub := func(procedure string) *connect.Client[benchpb.Msg, benchpb.Msg] {
			return connect.NewClient[benchpb.Msg, benchpb.Msg](hc, "http://bench"+procedure, off)
		}
		return &connectClient{t, stub(connectEcho), stub(connectDown), stub(connectUp)}, nil
	},
}

func plainHTTP2() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

func connectHTTP2() *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams:          1000,
		MaxReceiveBufferPerConnection: 4<<20 - 1,
		MaxReceiveBufferPerStream:     4<<20 - 1,
	}
}

type connectClient struct {
	transport                  *http.Transport
	echoStub, downStub, upStub *connect.Client[benchpb.Msg, benchpb.Msg]
}

func (c *connectClient) close() error {
	c.transport.CloseIdleConnections()
	return nil
}

func (c *connectClient) caller(size int) (func() error, error) {
	ctx, payload := context.Background(), make([]byte, size)
	return func() error {
		m, err := c.echoStub.CallUnary(ctx, connect.NewRequest(&benchpb.Msg{Data: payload}))
		if err != nil {
			return err
		}
		return checkEcho(m.Msg, size)
	}, nil
}

func (c *connectClient) down(size int, d time.Duration) (int, error) {
	stream, err := c.downStub.CallServerStream(context.Background(), connect.NewRequest(&benchpb.Msg{Data: downRequest(size, d)}))
	if err != nil {
		return 0, err
	}
	defer stream.Close()
	count := 0
	for ; stream.Receive(); count++ {
		if err := checkEcho(stream.Msg(), size); err != nil {
			return count, err
		}
	}
	return count, stream.Err()
}

func (c *connectClient) up(size int, more func() bool) (int, error) {
	stream := c.upStub.CallClientStream(context.Background())
	payload, count := make([]byte, size), 0
	for ; more(); count++ {
		if err := stream.Send(&benchpb.Msg{Data: payload}); err != nil {
			return count, err
		}
	}
	_, err := stream.CloseAndReceive()
	return count, err
}
