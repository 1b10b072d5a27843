package access

import (
	"testing"

	"google.golang.org/grpc/credentials"

	"github.com/vsockrpc/vsockrpc/rpc"
	"github.com/vsockrpc/vsockrpc/transport"
)

// TestFaces pins the classes that each face has.
func TestFaces(t *testing.T) {
	all := []Class{Open, Reduced, Facts, Read, Use, Control, Trusted, Class(99)}
	for face, has := range map[Face]map[Class]bool{
		FaceAll:     {Open: true, Reduced: true, Facts: true, Read: true, Use: true, Control: true, Trusted: true, Class(99): true},
		FaceUser:    {Open: true, Reduced: true, Facts: true, Read: true, Use: true},
		FaceControl: {Open: true, Reduced: true, Facts: true, Control: true},
		"other":     {},
	} {
		for _, c := range all {
			if got := face.Has(c); got != has[c] {
				t.Errorf("face %v has %v: %t", face, c, got)
			}
		}
	}
}

// TestFaceOf: the face is that of the listener, below whatever is above it, and
// the transport's word about its peer stays.
func TestFaceOf(t *testing.T) {
	unix := transport.AuthInfo{Peer: transport.Peer{Network: transport.NetworkUnix}}
	for _, tt := range []struct {
		info credentials.AuthInfo
		face Face
		kind string
	}{
		{FaceInfo{unix, FaceControl}, FaceControl, unix.AuthType()},
		{FaceInfo{nil, FaceUser}, FaceUser, "none"},
		{rpc.AuthInfo{Transport: FaceInfo{unix, FaceUser}}, FaceUser, ""},
		{unix, FaceAll, unix.AuthType()},
		{nil, FaceAll, ""},
	} {
		if got := FaceOf(tt.info); got != tt.face {
			t.Errorf("%#v: face %v, want %v", tt.info, got, tt.face)
		}
		if tt.kind == "" {
			continue
		}
		if got := tt.info.AuthType(); got != tt.kind {
			t.Errorf("%#v: type %q, want %q", tt.info, got, tt.kind)
		}
	}
}
