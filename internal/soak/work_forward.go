//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// echo is a server that sends back what it gets.
type echo struct {
	l       net.Listener
	running sync.WaitGroup
}

func newEcho() (*echo, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	e := &echo{l: l}
	e.running.Go(e.serve)
	return e, nil
}

func (e *echo) addr() string { return e.l.Addr().String() }

func (e *echo) serve() {
	for {
		c, err := e.l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // the process is out of descriptors
			continue
		}
		e.running.Go(func() {
			defer c.Close()
			if _, err := io.Copy(c, c); err == nil {
				_ = c.(*net.TCPConn).CloseWrite() // else the close says it
			}
		})
	}
}

// close ends the server, when all its connections have ended.
func (e *echo) close() {
	e.l.Close()
	e.running.Wait()
}

// forward sends bytes to the echo server through the machine. What comes back
// is what was sent, and its end comes behind all of it.
func (c *client) forward(ctx context.Context, op *operation) error {
	want := randomBytes(op.random, op.random.IntN(256<<10))
	pauses := op.random.IntN(10)
	conn, err := c.guest.DialContext(ctx, "tcp", c.s.echo.addr())
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	sent := make(chan error, 1)
	go func() { sent <- sendSlowly(ctx, conn, want, pauses) }()
	var got bytes.Buffer
	_, err = io.Copy(&got, conn)
	if err != nil {
		conn.Close()
	}
	sendErr := <-sent
	switch {
	case !bytes.HasPrefix(want, got.Bytes()):
		return brokenf("%d bytes came back that were not sent so", got.Len())
	case err != nil:
		return err
	case sendErr != nil:
		return sendErr
	case got.Len() != len(want):
		return brokenf("%d bytes came back and the end, %d were sent", got.Len(), len(want))
	}
	return nil
}

// sendSlowly sends data in some pieces with pauses between, and its end.
func sendSlowly(ctx context.Context, conn net.Conn, data []byte, pauses int) error {
	piece := len(data)/(pauses+1) + 1
	for len(data) > 0 {
		n := min(piece, len(data))
		if _, err := conn.Write(data[:n]); err != nil {
			return err
		}
		data = data[n:]
		wait(ctx, 100*time.Millisecond)
	}
	return conn.(interface{ CloseWrite() error }).CloseWrite()
}
