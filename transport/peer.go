package transport

import (
	"fmt"
	"net"

	"google.golang.org/grpc/credentials"
)

// Peer says who is at the other end of a connection, as far as the kernel of
// this machine knows. It is comparable. It proves nothing more than its fields
// say:
//
//   - Network vsock: CID and Port are what the kernel reports. On a host the
//     CID names the VM that has it now; CIDs are reused and cloned. In a guest,
//     CID 2 is the host and a Port below 1024 there means a process with
//     CAP_NET_BIND_SERVICE on the host, unless a user-space VMM stands between.
//     No user is known: SO_PEERCRED on a vsock reports uid -1 and is not used.
//   - Network unix: UID, GID and PID are those of the process at the other
//     end when it connected or listened, if HasCreds.
//   - Network vsock-mux: the process at the other end of the Unix socket is the
//     VMM, and UID, GID and PID are those of the VMM. The guest itself is known
//     only by the socket's Path. When dialed, Port is the guest's port; when
//     accepted, it is the port of this side that the guest chose, and the port
//     that the guest used itself is not known.
type Peer struct {
	Network  string // NetworkVsock, NetworkMux or NetworkUnix
	CID      uint32 // vsock only; 0 elsewhere
	Port     uint32 // vsock and vsock-mux
	Path     string // vsock-mux and unix: the path that was dialed or listened on
	UID, GID uint32 // valid if HasCreds
	PID      int32  // valid if HasCreds; 0 where the system does not tell
	HasCreds bool
}

// String describes the peer for a log, for instance "vsock CID 2 port 1023" or
// "unix uid 1000 pid 4242".
func (p Peer) String() string {
	var s string
	switch p.Network {
	case NetworkVsock:
		return fmt.Sprintf("vsock CID %d port %d", p.CID, p.Port)
	case NetworkMux:
		s = fmt.Sprintf("vsock-mux %s port %d", p.Path, p.Port)
	default:
		s = p.Network
	}
	if p.HasCreds {
		s += fmt.Sprintf(" uid %d pid %d", p.UID, p.PID)
	}
	return s
}

// AuthInfo is the credentials.AuthInfo of a connection of this package. It
// tells the peer and claims no security: SecurityLevel is always NoSecurity.
// It is a value, not a pointer:
//
//	p, _ := peer.FromContext(ctx)
//	info, ok := p.AuthInfo.(transport.AuthInfo)
type AuthInfo struct {
	credentials.CommonAuthInfo
	Peer Peer
}

var _ credentials.AuthInfo = AuthInfo{}

// AuthType returns "peer".
func (AuthInfo) AuthType() string { return "peer" }

// authInfoOf returns what conn says about its peer, or an AuthInfo with a zero
// Peer if it says nothing.
func authInfoOf(conn net.Conn) credentials.AuthInfo {
	if c, ok := conn.(interface{ AuthInfo() credentials.AuthInfo }); ok {
		return c.AuthInfo()
	}
	return newAuthInfo(Peer{})
}

func newAuthInfo(p Peer) AuthInfo {
	return AuthInfo{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}, Peer: p}
}
