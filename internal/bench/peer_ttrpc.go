package main

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/vsockrpc/vsockrpc/internal/bench/benchpb"
)

const ttrpcService = "vsockrpc.bench.Bench"

// ttrpcPeer is containerd's ttrpc. Its stubs are written by hand as
// protoc-gen-go-ttrpc writes them.
var ttrpcPeer = &peer{
	name:  "ttrpc",
	about: "containerd/ttrpc as it comes; its streams have no flow control",
	serve: func(l net.Listener) error {
		s, err := ttrpc.NewServer()
		if err != nil {
			return err
		}
		s.RegisterService(ttrpcService, &ttrpc.ServiceDesc{
			Methods: map[string]ttrpc.Method{"Echo": ttrpcEcho},
			Streams: map[string]ttrpc.Stream{
				"Down": {Handler: ttrpcDown, StreamingServer: true},
				"Up":   {Handler: ttrpcUp, StreamingClient: true},
			},
		})
		return s.Serve(context.Background(), l)
	},
	connect: func(path string) (client, error) {
		conn, err := net.Dial("unix", path)
		if err != nil {
			return nil, err
		}
		return &ttrpcClient{ttrpc.NewClient(conn)}, nil
	},
}

func ttrpcEcho(_ context.Context, unmarshal func(any) error) (any, error) {
	var m benchpb.Msg
	if err := unmarshal(&m); err != nil {
		return nil, err
	}
	return &benchpb.Msg{Data: m.GetData()}, nil
}

func ttrpcDown(_ context.Context, stream ttrpc.StreamServer) (any, error) {
	var m benchpb.Msg
	if err := stream.RecvMsg(&m); err != nil {
		return nil, err
	}
	payload, more, err := downPayload(m.GetData())
	if err != nil {
		return nil, err
	}
	for more() {
		if err := stream.SendMsg(&benchpb.Msg{Data: payload}); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func ttrpcUp(_ context.Context, stream ttrpc.StreamServer) (any, error) {
	for {
		if err := stream.RecvMsg(new(benchpb.Msg)); errors.Is(err, io.EOF) {
			return &benchpb.Msg{}, nil
		} else if err != nil {
			return nil, err
		}
	}
}

type ttrpcClient struct{ c *ttrpc.Client }

func (c *ttrpcClient) close() error { return c.c.Close() }

func (c *ttrpcClient) caller(size int) (func() error, error) {
	ctx, payload := context.Background(), make([]byte, size)
	return func() error {
		m := new(benchpb.Msg)
		if err := c.c.Call(ctx, ttrpcService, "Echo", &benchpb.Msg{Data: payload}, m); err != nil {
			return err
		}
		return checkEcho(m, size)
	}, nil
}

func (c *ttrpcClient) down(size int, d time.Duration) (int, error) {
	stream, err := c.c.NewStream(context.Background(), &ttrpc.StreamDesc{StreamingServer: true},
		ttrpcService, "Down", &benchpb.Msg{Data: downRequest(size, d)})
	if err != nil {
		return 0, err
	}
	for count := 0; ; count++ {
		m := new(benchpb.Msg)
		err := stream.RecvMsg(m)
		if errors.Is(err, io.EOF) {
			return count, nil
		}
		if err == nil {
			err = checkEcho(m, size)
		}
		if err != nil {
			return count, err
		}
	}
}

func (c *ttrpcClient) up(size int, more func() bool) (int, error) {
	stream, err := c.c.NewStream(context.Background(), &ttrpc.StreamDesc{StreamingClient: true}, ttrpcService, "Up", nil)
	if err != nil {
		return 0, err
	}
	payload, count := make([]byte, size), 0
	for ; more(); count++ {
		if err := stream.SendMsg(&benchpb.Msg{Data: payload}); err != nil {
			return count, err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return count, err
	}
	return count, stream.RecvMsg(new(benchpb.Msg))
}
