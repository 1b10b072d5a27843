//go:build linux

package agent

import (
	"context"
	"crypto/tls"
	"fmt"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/agent/policy"
	"github.com/vsockrpc/vsockrpc/keys"
	"github.com/vsockrpc/vsockrpc/rpc"
	"github.com/vsockrpc/vsockrpc/transport"
)

// caller is who calls: by the connection, and by the key that it has shown.
type caller struct {
	peer     transport.Peer
	decision access.Decision
	// face is that of the listener to which the connection came.
	face access.Face
	// shown is set if a key was shown, and key is its fingerprint then.
	shown  bool
	public keys.Public
	key    string
	// name and roles are those of a key that is known.
	name  string
	roles []string
	// peers are words for the peer, if it is trusted by itself.
	peers []string
}

// authInfoOf returns what the connection of a call says about its peer, or nil.
func authInfoOf(ctx context.Context) credentials.AuthInfo {
	if p, ok := peer.FromContext(ctx); ok {
		return p.AuthInfo
	}
	return nil
}

// known tells the server for which connections it keeps most of its room. It is also
// how the guard learns that there are some to look after.
func (g *guard) known(info credentials.AuthInfo) bool {
	trusted := g.callerBy(info).decision.Trusted
	if trusted {
		g.open.watch()
	}
	return trusted
}

// callerBy finds out who is at the other end of a connection, now: keys change while
// it is open.
func (g *guard) callerBy(info credentials.AuthInfo) caller {
	c := caller{peer: access.PeerOf(info), face: access.FaceOf(info)}
	c.decision = g.rules.Decide(c.peer)
	// Who may not even connect is not trusted, whatever else is said.
	c.decision.Trusted = c.decision.Trusted && c.decision.Connect
	if c.decision.Trusted {
		c.peers = peerWords(c.decision.Rule, c.peer)
	}
	ti, ok := info.(rpc.AuthInfo)
	if ok && c.decision.Connect {
		g.identify(&c, ti.State)
	}
	g.requireKey(&c)
	if !c.decision.Trusted {
		c.peers, c.roles = nil, nil
		remedy := enrol(c)
		if c.decision.Remedy != "" {
			remedy += "; or: " + c.decision.Remedy
		}
		c.decision.Remedy = remedy
	}
	return c
}

// identify takes what TLS has proved about c.
func (g *guard) identify(c *caller, cs tls.ConnectionState) {
	c.public, c.shown = keys.PeerKey(cs)
	if c.shown {
		c.key = c.public.Fingerprint()
		host, status := g.hosts.Lookup(c.public)
		switch status {
		case access.KeyKnown:
			c.name, c.roles = host.Name, host.Roles
			c.decision = access.Decision{Connect: true, Trusted: true, Rule: access.RuleKey}
			return
		case access.KeyRevoked:
			// Also of a peer who would be trusted without it: who comes with
			// such a key has missed something.
			c.decision = access.Decision{Connect: true, Rule: access.RuleRevoked}
			return
		}
	}
	if len(cs.VerifiedChains) > 0 {
		// By the CA of the agent's own tls.Config.
		c.name = certificateName(cs)
		c.decision = access.Decision{Connect: true, Trusted: true, Rule: access.RuleCertificate}
	}
}

// certificateName returns the name of a client that a CA has vouched for: its
// first URI, as in SPIFFE, or its common name.
func certificateName(cs tls.ConnectionState) string {
	leaf := cs.VerifiedChains[0][0]
	if len(leaf.URIs) > 0 {
		return leaf.URIs[0].String()
	}
	return leaf.Subject.CommonName
}

// requireKey takes the trust from a caller without a key where one is required.
func (g *guard) requireKey(c *caller) {
	if !g.requireKeys || !c.decision.Trusted {
		return
	}
	c.peers = nil
	switch c.decision.Rule {
	case access.RuleKey, access.RuleCertificate, access.RuleEmbedded:
		return
	}
	c.decision = access.Decision{Connect: true, Rule: access.RuleKeyRequired, Remedy: "this agent asks everybody for a key (--require-keys)"}
}

// peerWords are the words for a peer in a policy.
func peerWords(rule string, p transport.Peer) []string {
	words := []string{rule}
	switch p.Network {
	case transport.NetworkVsock:
		words = append(words, fmt.Sprintf("cid:%d", p.CID))
	case transport.NetworkUnix:
		if p.HasCreds {
			words = append(words, fmt.Sprintf("uid:%d", p.UID))
		}
	}
	return words
}

// enrol returns the command that lets a caller in, before what else would.
func enrol(c caller) string {
	switch {
	case c.decision.Rule == access.RuleRevoked:
		return "this key is revoked: make another one (host-ctl keygen --force), and have it enrolled by somebody who is trusted"
	case c.shown:
		return fmt.Sprintf("have somebody who is trusted, such as root, run: host-ctl enroll --key '%s' GUEST", c.public)
	}
	return "make a key (host-ctl keygen) and have somebody who is trusted, such as root, run: host-ctl enroll --key id_ed25519.pub GUEST"
}

// policyCaller returns c as policies name callers.
func (c *caller) policyCaller() policy.Caller {
	pc := policy.Caller{Name: c.name, Roles: c.roles, Peers: c.peers}
	if c.decision.Rule == access.RuleKey || c.decision.Rule == access.RuleCertificate {
		pc.Fingerprint = c.key
		if pc.Fingerprint == "" {
			pc.Fingerprint = access.RuleCertificate + ":" + c.name
		}
	}
	return pc
}

// identity tells one caller from another, for what belongs to whom.
func (c *caller) identity() string {
	if c.decision.Rule == access.RuleKey {
		return c.key
	}
	return fmt.Sprintf("%s %s uid %d cid %d", c.decision.Rule, c.name, c.peer.UID, c.peer.CID)
}

type callerKey struct{}

// callerIn returns the caller that the guard has put into ctx: without one,
// nobody is trusted.
func callerIn(ctx context.Context) *caller {
	if c, ok := ctx.Value(callerKey{}).(*caller); ok {
		return c
	}
	return &caller{}
}
