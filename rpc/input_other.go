//go:build !linux

package rpc

import "net"

// hasInput reports whether a connection surely has bytes that nobody has read yet.
func hasInput(net.Conn) bool { return false }
