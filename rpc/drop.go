package rpc

import (
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// whyDropped is what a client of the native wire is told whose connection is dropped.
const whyDropped = "the server does not know this client any more"

// Connections returns how many connections the server has, with those in their
// handshake.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// Drop ends the connections of clients that ServerConfig.Known knew when they came
// and for which known now returns false, since they have more room than a client
// that is not known. It is for the time after a client's key was revoked. On the
// native wire calls that are open may end by themselves; the others are cut off.
func (s *Server) Drop(known func(credentials.AuthInfo) bool) {
	var natives []*serverConn
	var https []*http2Conn
	s.mu.Lock()
	for sc := range s.natives {
		if !sc.arrived.stranger {
			natives = append(natives, sc)
		}
	}
	for c := range s.https {
		https = append(https, c)
	}
	s.mu.Unlock()
	for _, sc := range natives {
		var info credentials.AuthInfo
		if p, ok := peer.FromContext(sc.base); ok {
			info = p.AuthInfo
		}
		if !known(info) {
			sc.goAway(whyDropped)
		}
	}
	for _, c := range https {
		if !known(c.info) {
			_ = c.Close()
		}
	}
}

// keepHTTP2 remembers a connection of a client that is known, for Drop.
func (s *Server) keepHTTP2(c *http2Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.https[c] = struct{}{}
}

func (s *Server) forgetHTTP2(c *http2Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.https, c)
}
