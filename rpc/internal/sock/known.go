package sock

import (
	"crypto/tls"
	"net"
	"reflect"
	"syscall"
)

// selfRaw is rpc.RawConn.
type selfRaw interface {
	RawConn() (self net.Conn, socket syscall.RawConn)
}

// socketOf returns the socket that nc is, nil if it must be used by Read and Write.
func socketOf(nc net.Conn) syscall.RawConn {
	switch c := nc.(type) { // these types themselves, not what embeds them
	case *net.UnixConn:
		return rawOf(c)
	case *net.TCPConn:
		return rawOf(c)
	case selfRaw:
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

// Interruptible reports whether a deadline is known to end a read of nc that is
// blocked. A connection of unknown type may ignore deadlines, and many do.
func Interruptible(nc net.Conn) bool {
	if c, ok := nc.(*tls.Conn); ok {
		nc = c.NetConn()
	}
	if c, ok := nc.(*Prefixed); ok {
		nc = c.Conn
	}
	return socketOf(nc) != nil
}

// Prefixed is a connection some of whose first bytes were read already.
type Prefixed struct {
	net.Conn
	Begun []byte // read before what Conn has
}

// Read implements net.Conn.
func (c *Prefixed) Read(p []byte) (int, error) {
	if len(c.Begun) > 0 {
		n := copy(p, c.Begun)
		c.Begun = c.Begun[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}
