//go:build linux

package agent

import (
	"context"
	"crypto/tls"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/vsockrpc/vsockrpc/agent/access"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/rpc"
	"github.com/vsockrpc/vsockrpc/transport"
)

// describedMethods returns every method in the proto descriptors, and one of a
// service that nobody has described.
func describedMethods() []string {
	all := []string{"/other.v1.Service/Call"}
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			service := f.Services().Get(i)
			for j := range service.Methods().Len() {
				all = append(all, "/"+string(service.FullName())+"/"+string(service.Methods().Get(j).Name()))
			}
		}
		return true
	})
	return all
}

// TestFaceConnIsASocket: a connection with a face is used through its descriptor, as the
// one below it is.
func TestFaceConnIsASocket(t *testing.T) {
	addr := transport.UnixAddr(filepath.Join(t.TempDir(), "s"))
	lis, err := transport.Listen(t.Context(), addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	conn, err := transport.Dial(t.Context(), addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	faced := onFace(conn, access.FaceUser)
	if self, socket := faced.(rpc.RawConn).RawConn(); self != faced || socket == nil {
		t.Errorf("RawConn = %v, %v", self, socket)
	}
}

// TestFaces calls every method of the descriptors on each face, over both wires,
// with all the rights that there are: on the user face no method of the control
// face answers, and the other way round.
func TestFaces(t *testing.T) {
	if testing.Short() {
		t.Skip("some thousand calls")
	}
	desc := &grpc.ServiceDesc{ServiceName: "other.v1.Service", HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: "Call", ServerStreams: true, Handler: func(any, grpc.ServerStream) error { return nil }}}}
	a, _ := serve(t, &Config{Key: agentKey, Hosts: gridHosts(t), Access: access.Rules{Mode: access.ModeHost}}, func(a *Agent) { a.RegisterService(desc, struct{}{}) })
	for _, face := range []access.Face{access.FaceAll, access.FaceUser, access.FaceControl} {
		made := newPeerListener()
		addr := transport.UnixAddr(filepath.Join(t.TempDir(), "s"))
		sock, err := transport.Listen(t.Context(), addr, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range []net.Listener{made, sock} {
			go a.ServeFace(l, face)
		}
		for carrier, dial := range map[string]func(context.Context) (net.Conn, error){
			"vsock": func(ctx context.Context) (net.Conn, error) { return made.dial(ctx, vsockPeer(2, 900)) },
			"unix":  func(ctx context.Context) (net.Conn, error) { return transport.Dial(ctx, addr, nil) },
		} {
			for key, tc := range map[string]*tls.Config{"no key": nil, "full": clientTLS(t, fullKey)} {
				if carrier == "unix" && key == "no key" {
					continue // who runs the test is not trusted by that
				}
				for wire, cc := range secureClients(t, dial, tc) {
					t.Run(carrier+"/"+string(face)+"/"+key+"/"+wire, func(t *testing.T) { tryFace(t, cc, face) })
				}
			}
		}
	}
}

func tryFace(t *testing.T, cc grpc.ClientConnInterface, face access.Face) {
	refused := 0
	for _, method := range describedMethods() {
		class := access.ClassOf(method)
		want := codes.OK
		if face == access.FaceUser && (class == access.Control || class == access.Trusted) ||
			face == access.FaceControl && (class == access.Read || class == access.Use || class == access.Trusted) {
			want, refused = codes.PermissionDenied, refused+1
		}
		patience := time.Minute
		if want == codes.OK {
			if class == access.Use {
				continue
			}
			patience = 20 * time.Millisecond // some stream until they are cancelled
		}
		if got := probe(t.Context(), cc, method, patience); got != want {
			t.Errorf("%s: %v, want %v", method, got, want)
		}
	}
	if (refused == 0) != (face == access.FaceAll) {
		t.Errorf("%d methods are not on the face", refused)
	}
	exp, err := guestv1.NewAccessServiceClient(cc).Explain(t.Context(), &guestv1.ExplainRequest{Method: guestv1.ControlService_AddHostKey_FullMethodName})
	if err != nil || exp.GetAllowed() != (face != access.FaceUser) || (exp.GetRemedy() == "") != exp.GetAllowed() {
		t.Errorf("explain: %v, %v", exp, err)
	}
}

// TestFaceRefusal: who is trusted learns what is wrong, and who is not learns
// what he would of any method.
func TestFaceRefusal(t *testing.T) {
	a, _ := serve(t, &Config{}, nil)
	l := newPeerListener()
	go a.ServeFace(l, access.FaceUser)
	for port, want := range map[uint32]struct {
		code   codes.Code
		reason string
	}{900: {codes.PermissionDenied, "other-face"}, 5000: {codes.Unauthenticated, "refused"}} {
		for wire, cc := range clients(t, l, vsockPeer(2, port)) {
			_, err := guestv1.NewControlServiceClient(cc).ListHostKeys(t.Context(), &guestv1.ListHostKeysRequest{})
			if d := detailOf(err); status.Code(err) != want.code || d.GetReason() != want.reason || d.GetRemedy() == "" {
				t.Errorf("%s, port %d: %v, %v", wire, port, err, d)
			}
			_, err = guestv1.NewProcessServiceClient(cc).ListSessions(t.Context(), &guestv1.ListSessionsRequest{})
			if trusted := want.code == codes.PermissionDenied; (err == nil) != trusted {
				t.Errorf("%s, port %d, the user face: %v", wire, port, err)
			}
		}
	}
}
