package rpc

import (
	"bytes"
	"fmt"

	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// explainPeer says what a peer that sent b first, instead of magic, seems to be,
// and what to do.
func explainPeer(b []byte) string {
	switch {
	case len(b) >= 9 && b[0] == 0 && b[3] == 4 && bytes.Equal(b[5:9], []byte{0, 0, 0, 0}):
		return "the peer speaks HTTP/2, so it is a gRPC server without the native wire: use the wire \"grpc\", or a newer agent"
	case bytes.HasPrefix(b, []byte("HTTP/")):
		return "the peer is an HTTP/1 server, not an agent: check the address and port"
	case bytes.HasPrefix(b, []byte(wire.AnyMagic)):
		return "the peer speaks another version of the native wire: use the wire \"grpc\", or bring both sides to the same version"
	case bytes.HasPrefix(b, []byte("SSH-")):
		return "the peer is an SSH server, not an agent: check the address and port"
	case len(b) >= 3 && (b[0] == 0x15 || b[0] == 0x16) && b[1] == 3:
		return "the peer wants TLS: give the client keys"
	}
	return fmt.Sprintf("the peer's first bytes %q are of no protocol known here: check the address and port", b[:min(24, len(b))])
}
