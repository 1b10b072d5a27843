package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"google.golang.org/protobuf/proto"
	"storj.io/drpc"
	"storj.io/drpc/drpcconn"
	"storj.io/drpc/drpcserver"

	"github.com/vsockrpc/vsockrpc/internal/bench/benchpb"
)

const (
	drpcEcho = "/vsockrpc.bench.Bench/Echo"
	drpcDown = "/vsockrpc.bench.Bench/Down"
	drpcUp   = "/vsockrpc.bench.Bench/Up"
)

// drpcPeer is storj's drpc. A connection carries one call at a time, so each
// caller has its own. Its stubs are written by hand.
var drpcPeer = &peer{
	name:  "drpc",
	about: "storj.io/drpc as it comes; it cannot multiplex: a connection for each caller",
	serve: func(l net.Listener) error {
		return drpcserver.New(drpcHandler{}).Serve(context.Background(), l)
	},
	connect: func(path string) (client, error) {
		first, err := dialDRPC(path)
		if err != nil {
			return nil, err
		}
		return &drpcClient{path: path, conns: []*drpcconn.Conn{first}}, nil
	},
}

// drpcEncoding is protobuf, as protoc-gen-go-drpc's.
type drpcEncoding struct{}

func (drpcEncoding) Marshal(m drpc.Message) ([]byte, error) { return proto.Marshal(m.(proto.Message)) }

func (drpcEncoding) MarshalAppend(b []byte, m drpc.Message) ([]byte, error) {
	return proto.MarshalOptions{}.MarshalAppend(b, m.(proto.Message))
}

func (drpcEncoding) Unmarshal(b []byte, m drpc.Message) error {
	return proto.Unmarshal(b, m.(proto.Message))
}

type drpcHandler struct{}

func (drpcHandler) HandleRPC(stream drpc.Stream, rpc string) error {
	m := new(benchpb.Msg)
	if rpc != drpcUp {
		if err := stream.MsgRecv(m, drpcEncoding{}); err != nil {
			return err
		}
	}
	switch rpc {
	case drpcEcho:
		return stream.MsgSend(&benchpb.Msg{Data: m.GetData()}, drpcEncoding{})
	case drpcDown:
		payload, more, err := downPayload(m.GetData())
		if err != nil {
			return err
		}
		for more() {
			if err := stream.MsgSend(&benchpb.Msg{Data: payload}, drpcEncoding{}); err != nil {
				return err
			}
		}
		return stream.CloseSend()
	case drpcUp:
		for {
			if err := stream.MsgRecv(new(benchpb.Msg), drpcEncoding{}); errors.Is(err, io.EOF) {
				return stream.MsgSend(&benchpb.Msg{}, drpcEncoding{})
			} else if err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("unknown method %q", rpc)
}

type drpcClient struct {
	path  string
	conns []*drpcconn.Conn
	used  bool // the first connection has a caller
}

func dialDRPC(path string) (*drpcconn.Conn, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	return drpcconn.New(conn), nil
}

func (c *drpcClient) close() error {
	var errs []error
	for _, conn := range c.conns {
		errs = append(errs, conn.Close())
	}
	return errors.Join(errs...)
}

func (c *drpcClient) caller(size int) (func() error, error) {
	conn := c.conns[0]
	if c.used {
		var err error
		if conn, err = dialDRPC(c.path); err != nil {
			return nil, err
		}
		c.conns = append(c.conns, conn)
	}
	c.used = true
	ctx, payload := context.Background(), make([]byte, size)
	return func() error {
		m := new(benchpb.Msg)
		if err := conn.Invoke(ctx, drpcEcho, drpcEncoding{}, &benchpb.Msg{Data: payload}, m); err != nil {
			return err
		}
		return checkEcho(m, size)
	}, nil
}

func (c *drpcClient) down(size int, d time.Duration) (int, error) {
	stream, err := c.conns[0].NewStream(context.Background(), drpcDown, drpcEncoding{})
	if err != nil {
		return 0, err
	}
	defer stream.Close()
	if err := stream.MsgSend(&benchpb.Msg{Data: downRequest(size, d)}, drpcEncoding{}); err != nil {
		return 0, err
	}
	if err := stream.CloseSend(); err != nil {
		return 0, err
	}
	for count := 0; ; count++ {
		m := new(benchpb.Msg)
		err := stream.MsgRecv(m, drpcEncoding{})
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

func (c *drpcClient) up(size int, more func() bool) (int, error) {
	stream, err := c.conns[0].NewStream(context.Background(), drpcUp, drpcEncoding{})
	if err != nil {
		return 0, err
	}
	defer stream.Close()
	payload, count := make([]byte, size), 0
	for ; more(); count++ {
		if err := stream.MsgSend(&benchpb.Msg{Data: payload}, drpcEncoding{}); err != nil {
			return count, err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return count, err
	}
	return count, stream.MsgRecv(new(benchpb.Msg), drpcEncoding{})
}
