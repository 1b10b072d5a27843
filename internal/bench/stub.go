package main

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"

	"github.com/vsockrpc/vsockrpc/internal/bench/benchpb"
)

// service is the generated server side of gRPC's stubs, for every peer that
// takes them unchanged.
type service struct {
	benchpb.UnimplementedBenchServer
}

func (service) Echo(_ context.Context, m *benchpb.Msg) (*benchpb.Msg, error) {
	return &benchpb.Msg{Data: m.GetData()}, nil
}

func (service) Down(m *benchpb.Msg, stream grpc.ServerStreamingServer[benchpb.Msg]) error {
	payload, more, err := downPayload(m.GetData())
	if err != nil {
		return err
	}
	for more() {
		if err := stream.Send(&benchpb.Msg{Data: payload}); err != nil {
			return err
		}
	}
	return nil
}

func (service) Up(stream grpc.ClientStreamingServer[benchpb.Msg, benchpb.Msg]) error {
	for {
		if _, err := stream.Recv(); errors.Is(err, io.EOF) {
			return stream.SendAndClose(&benchpb.Msg{})
		} else if err != nil {
			return err
		}
	}
}

// stubClient is the generated client side of gRPC's stubs.
type stubClient struct {
	stub  benchpb.BenchClient
	owner io.Closer
}

func newStubClient(cc interface {
	grpc.ClientConnInterface
	io.Closer
}) *stubClient {
	return &stubClient{benchpb.NewBenchClient(cc), cc}
}

func (c *stubClient) close() error { return c.owner.Close() }

func (c *stubClient) caller(size int) (func() error, error) {
	ctx, payload := context.Background(), make([]byte, size)
	return func() error {
		m, err := c.stub.Echo(ctx, &benchpb.Msg{Data: payload})
		if err != nil {
			return err
		}
		return checkEcho(m, size)
	}, nil
}

func (c *stubClient) down(size int, d time.Duration) (int, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := c.stub.Down(ctx, &benchpb.Msg{Data: downRequest(size, d)})
	if err != nil {
		return 0, err
	}
	for count := 0; ; count++ {
		m, err := stream.Recv()
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

func (c *stubClient) up(size int, more func() bool) (int, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := c.stub.Up(ctx)
	if err != nil {
		return 0, err
	}
	payload, count := make([]byte, size), 0
	for ; more(); count++ {
		if err := stream.Send(&benchpb.Msg{Data: payload}); err != nil {
			return count, err
		}
	}
	_, err = stream.CloseAndRecv()
	return count, err
}
