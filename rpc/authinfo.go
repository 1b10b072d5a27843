package rpc

import (
	"net"

	"google.golang.org/grpc/credentials"
)

// AuthInfo is the credentials.AuthInfo of a peer that speaks TLS: who it is by
// its certificate, and who it is by the connection below. Without TLS,
// peer.AuthInfo is the connection's own, or nil.
type AuthInfo struct {
	credentials.TLSInfo
	// Transport is what the connection below TLS says about its peer, nil if it
	// has no AuthInfo method.
	Transport credentials.AuthInfo
}

// AuthType returns "tls", as of credentials.TLSInfo.
func (AuthInfo) AuthType() string { return "tls" }

// authInfoOf returns what conn says about its peer, or nil.
func authInfoOf(conn net.Conn) credentials.AuthInfo {
	if c, ok := conn.(interface{ AuthInfo() credentials.AuthInfo }); ok {
		return c.AuthInfo()
	}
	return nil
}
