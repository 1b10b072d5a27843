package access

import (
	"fmt"

	"google.golang.org/grpc/credentials"

	"github.com/vsockrpc/vsockrpc/rpc"
)

// Face is the part of an agent's methods that one of its listeners offers.
// Whoever calls a method that the face has not is refused, whatever rights it has.
type Face string

const (
	// FaceAll offers everything. It is the default.
	FaceAll Face = ""
	// FaceUser offers what runs, changes, connects and tells, and nothing that
	// says who may call or works on the guest as a whole.
	FaceUser Face = "user"
	// FaceControl offers just that, and facts.
	FaceControl Face = "control"
)

// ParseFace parses user or control.
func ParseFace(s string) (Face, error) {
	switch f := Face(s); f {
	case FaceUser, FaceControl:
		return f, nil
	}
	return FaceAll, fmt.Errorf("face %q: want user or control", s)
}

// Has reports whether methods of a class are on the face. Those that nobody has
// decided on are on FaceAll alone.
func (f Face) Has(c Class) bool {
	switch f {
	case FaceAll:
		return true
	case FaceUser:
		return ProfileOps.Has(c)
	case FaceControl:
		return ProfileInfo.Has(c) || c == Control
	}
	return false
}

// FaceInfo is the credentials.AuthInfo of a connection that came to a listener
// with a face.
type FaceInfo struct {
	// Transport is what the connection says about its peer, or nil.
	Transport credentials.AuthInfo
	Face      Face
}

// AuthType returns that of Transport.
func (i FaceInfo) AuthType() string {
	if i.Transport == nil {
		return "none"
	}
	return i.Transport.AuthType()
}

// FaceOf returns the face of the listener that the connection with this AuthInfo
// came to, with TLS that of the connection below.
func FaceOf(info credentials.AuthInfo) Face {
	switch ai := info.(type) {
	case FaceInfo:
		return ai.Face
	case rpc.AuthInfo:
		return FaceOf(ai.Transport)
	}
	return FaceAll
}
