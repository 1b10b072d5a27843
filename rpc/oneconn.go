package rpc

import (
	"net"
	"sync"
)

// oneConn is a listener that accepts one connection and ends with it.
type oneConn struct {
	conn  chan net.Conn
	addr  net.Addr
	done  chan struct{}
	close sync.Once
}

type oneConnClosed struct {
	net.Conn
	l *oneConn
}

func newOneConn(c net.Conn) *oneConn {
	l := &oneConn{conn: make(chan net.Conn, 1), addr: c.LocalAddr(), done: make(chan struct{})}
	l.conn <- oneConnClosed{c, l}
	return l
}

func (c oneConnClosed) Close() error {
	_ = c.l.Close()
	return c.Conn.Close()
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *oneConn) Close() error {
	l.close.Do(func() { close(l.done) })
	return nil
}

func (l *oneConn) Addr() net.Addr { return l.addr }
