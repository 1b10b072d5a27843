package rpc

import (
	"net"
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
