//go:build linux

package agent

import (
	"net"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"

	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/agent/internal/fault"
	"github.com/vsockrpc/vsockrpc/transport"
)

// onFace returns conn as one that came to a listener with a face. It keeps the
// methods of a [transport.Conn], some of which make calls quicker.
func onFace(conn net.Conn, face access.Face) net.Conn {
	info := access.FaceInfo{Face: face}
	if c, ok := conn.(interface{ AuthInfo() credentials.AuthInfo }); ok {
		info.Transport = c.AuthInfo()
	}
	if c, ok := conn.(*transport.Conn); ok {
		return &faceTransportConn{c, info}
	}
	return faceConn{conn, info}
}

type faceTransportConn struct {
	*transport.Conn
	info access.FaceInfo
}

// AuthInfo returns the connection's own, with the face.
func (c *faceTransportConn) AuthInfo() credentials.AuthInfo { return c.info }

// RawConn says that only AuthInfo differs from the connection below.
func (c *faceTransportConn) RawConn() (self net.Conn, socket syscall.RawConn) {
	_, socket = c.Conn.RawConn()
	return c, socket
}

type faceConn struct {
	net.Conn
	info access.FaceInfo
}

// AuthInfo returns the connection's own, with the face.
func (c faceConn) AuthInfo() credentials.AuthInfo { return c.info }

// otherFace is the status that a trusted caller gets for a method that is not on
// the face which it has called.
func otherFace(method string, face access.Face) *fault.Error {
	return fault.New(codes.PermissionDenied, "other-face", "this address of the guest's agent offers its %s face only, which %s is not on", face, method).
		On(method, "", nil).Hint(otherFaceRemedy)
}

const otherFaceRemedy = "call the address that offers this method: guest-agent logs its addresses when it starts"
