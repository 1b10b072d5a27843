//go:build !linux

package vmmtest

import (
	"net"
	"sync"
)

// A hostStream is a Unix socket. It can be reset only if the other side has
// just sent something, see the package's documentation.
type hostStream struct {
	*net.UnixConn
	closeOnce sync.Once
}

var _ stream = (*hostStream)(nil)

func newHostStream(u *net.UnixConn) (*hostStream, error) { return &hostStream{UnixConn: u}, nil }

// Close closes the socket.
func (s *hostStream) Close() error {
	s.closeOnce.Do(func() { s.UnixConn.Close() })
	return nil
}

// Reset closes the socket.
func (s *hostStream) Reset() { s.Close() }

func (*hostStream) waitHangup() bool { return false }
