package access

import (
	"fmt"
	"slices"

	"google.golang.org/grpc/credentials"

	"github.com/vsockrpc/vsockrpc/rpc"
	"github.com/vsockrpc/vsockrpc/transport"
)

// Mode says which callers on vsock are trusted.
type Mode string

const (
	// ModeHostRoot trusts processes of the host that dial from a port below
	// 1024, for which they need CAP_NET_BIND_SERVICE. It is the default: the
	// empty Mode means the same.
	ModeHostRoot Mode = "host-root"
	// ModeHost trusts every process that reaches the agent as the host. It is
	// right where the host's end is a Unix socket with permissions of its own.
	ModeHost Mode = "host"
	// ModeAuto is ModeHost where the firmware surely says that vsock is always
	// such a socket, and ModeHostRoot elsewhere. Resolve tells which; Rules
	// takes it for ModeHostRoot.
	ModeAuto Mode = "auto"
	// ModeEmbedded trusts everybody on any network. It is for an agent that
	// serves only connections which its own process makes.
	ModeEmbedded Mode = "embedded"
)

// ParseMode parses what --peer takes: host-root, host or auto.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case ModeHostRoot, ModeHost, ModeAuto:
		return m, nil
	}
	return "", fmt.Errorf("peer mode %q: want host-root, host or auto", s)
}

// Rules say who may call. The zero value is the strictest: the host's root on
// vsock, root on Unix sockets.
type Rules struct {
	Mode Mode
	// AllowCIDs are taken for the host besides CID 2; Mode holds for them too.
	// CID 1 is the guest itself, and lets its own processes in.
	AllowCIDs []uint32
	// UID is the user besides root who is trusted on Unix sockets: usually
	// the agent's own.
	UID uint32
}

// firstUnprivilegedPort is the lowest vsock port that needs no
// CAP_NET_BIND_SERVICE (LAST_RESERVED_PORT + 1 in net/vmw_vsock/af_vsock.c).
const firstUnprivilegedPort = 1024

// Words for Decision.Rule. Those of callers who are trusted name what they
// have shown; the others name the rule that they did not meet.
const (
	RuleHostRoot = "host-root"
	RuleHost     = "host"
	RuleRoot     = "root"
	RuleSameUID  = "same-uid"
	RuleEmbedded = "embedded"
	RuleCID      = "cid"          // the CID is neither the host's nor allowed
	RuleUnknown  = "unknown-peer" // nothing is known about the caller

	RuleKey         = "key"          // the caller has shown a key that is known
	RuleCertificate = "certificate"  // a CA of the agent's own TLS configuration vouches for it
	RuleRevoked     = "revoked-key"  // the caller's key was revoked
	RuleKeyRequired = "key-required" // who calls without a key is not trusted
)

// Decision is what the rules make of a caller.
type Decision struct {
	// Connect says whether the caller may have a connection at all.
	Connect bool
	// Trusted says whether methods of class Trusted answer the caller.
	Trusted bool
	// Rule is one of the Rule words.
	Rule string
	// Remedy says what would let the caller in, empty if it is trusted.
	Remedy string
}

// Decide applies the rules to a caller.
func (r Rules) Decide(p transport.Peer) Decision {
	if r.Mode == ModeEmbedded {
		return trust(RuleEmbedded)
	}
	switch p.Network {
	case transport.NetworkVsock:
		return r.decideVsock(p)
	case transport.NetworkUnix:
		return r.decideUnix(p)
	}
	return refused(RuleUnknown, "call over vsock or over a Unix socket: of this connection the agent does not know who is at the other end")
}

func (r Rules) decideVsock(p transport.Peer) Decision {
	if p.CID != transport.CIDHost && !slices.Contains(r.AllowCIDs, p.CID) {
		return Decision{Rule: RuleCID, Remedy: fmt.Sprintf(
			"only the host (CID 2) may call; to allow CID %d too, start guest-agent with --allow-cid=%[1]d (GUEST_AGENT_ALLOW_CID=%[1]d, kernel argument guest-agent.allow-cid=%[1]d)", p.CID)}
	}
	switch {
	case r.Mode == ModeHost:
		return trust(RuleHost)
	case p.Port < firstUnprivilegedPort:
		return trust(RuleHostRoot)
	}
	return refused(RuleHostRoot, "the rule is host-root: call as root of the host, from a port below 1024 as host-ctl does by itself; "+
		"or, if this guest's vsock is a Unix socket of its VMM with permissions of its own, start guest-agent with --peer=host (GUEST_AGENT_PEER=host, kernel argument guest-agent.peer=host)")
}

func (r Rules) decideUnix(p transport.Peer) Decision {
	switch {
	case !p.HasCreds:
		return refused(RuleUnknown, "the system does not tell which user is at the other end of this Unix socket")
	case p.UID == 0:
		return trust(RuleRoot)
	case p.UID == r.UID:
		return trust(RuleSameUID)
	}
	return refused(RuleSameUID, fmt.Sprintf("the rule is same-uid: call as uid %d, the agent's own, or as root", r.UID))
}

func trust(rule string) Decision { return Decision{Connect: true, Trusted: true, Rule: rule} }

func refused(rule, remedy string) Decision {
	return Decision{Connect: true, Rule: rule, Remedy: remedy}
}

// PeerOf returns the peer that the AuthInfo of a connection tells of, with TLS
// that of the connection below. Without one it returns a zero Peer, which only
// ModeEmbedded trusts.
func PeerOf(info credentials.AuthInfo) transport.Peer {
	switch ai := info.(type) {
	case transport.AuthInfo:
		return ai.Peer
	case rpc.AuthInfo:
		return PeerOf(ai.Transport)
	case FaceInfo:
		return PeerOf(ai.Transport)
	}
	return transport.Peer{}
}
