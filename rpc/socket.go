package rpc

import (
	"crypto/tls"
	"net"
	"reflect"
	"syscall"
)

// RawConn is implemented by a connection that is a stream socket and nothing else: what
// Read and Write exchange is what the descriptor exchanges, unbuffered and unchanged, and
// deadlines also end reads and writes through the syscall.RawConn. On Linux this package
// reads and writes such a connection through its descriptor, as it does a *net.UnixConn
// and a *net.TCPConn, and not through Read and Write.
type RawConn interface {
	net.Conn
	// RawConn returns the connection itself and its socket; a nil socket means that
	// Read and Write must be used. A type that embeds a RawConn has this method too, but
	// then self is not the connection in use, and the socket is ignored: Read and
	// Write of the outer type may do more. For that, self must be a pointer.
	RawConn() (self net.Conn, socket syscall.RawConn)
}

// socketOf returns the socket that nc is, nil if it must be used by Read and Write.
func socketOf(nc net.Conn) syscall.RawConn {
	switch c := nc.(type) { // these types themselves, not what embeds them
	case *net.UnixConn:
		return rawOf(c)
	case *net.TCPConn:
		return rawOf(c)
	case RawConn:
		if reflect.TypeOf(nc).Kind() != reflect.Pointer {
			return nil
		}
		if self, socket := c.RawConn(); self == nc {
			return socket
		}
	}
	return nil
}

func rawOf(c syscall.Conn) syscall.RawConn {
	rc, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	return rc
}

// interruptible reports whether a deadline is known to end a read of nc that is
// blocked. A connection of unknown type may ignore deadlines, and many do.
func interruptible(nc net.Conn) bool {
	if c, ok := nc.(*tls.Conn); ok {
		nc = c.NetConn()
	}
	if c, ok := nc.(*begunConn); ok {
		nc = c.Conn
	}
	return socketOf(nc) != nil
}
