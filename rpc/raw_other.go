//go:build !linux

package rpc

import (
	"net"
	"time"
)

// rawConn is for Linux only; elsewhere connections are used through net.Conn.
type rawConn struct{}

func newRawConn(net.Conn) *rawConn { return nil }

func (*rawConn) fill(*reader, []byte, time.Duration) (int, error) { panic("unreachable") }

func (*rawConn) writev([][]byte, bool, func()) (int, bool, error) { panic("unreachable") }
