//go:build linux

package agent

import (
	"slices"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"

	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/agent/internal/charge"
	"github.com/vsockrpc/vsockrpc/agent/internal/fault"
)

// Bounds on what all callers together hold of an agent. Each has a share for each
// caller and a reserve (package charge).
const (
	maxConnections = 1024
	maxCalls       = 32768
	// maxKept bounds the bytes of requests that open calls keep for the policy, and
	// smallCall what is not counted of one.
	maxKept   = 128 << 20
	smallCall = 4 << 10
	// maxStreams bounds the calls of one connection: a host may have one program
	// with thousands of sessions.
	maxStreams = 4096
	// maxHandshakes bounds the connections in their handshake. Over vsock all
	// callers but root look alike until then: there are so many that a flood of
	// connections which say nothing leaves a client the time to begin.
	maxHandshakes = 512
)

// account returns who is charged for what a caller makes the agent hold.
func (g *guard) account(who *caller) charge.Account {
	if !who.decision.Trusted {
		return strangers
	}
	p, _ := g.policy.Get()
	return charge.Account{ID: who.identity(), Full: p.Full(who.policyCaller())}
}

// strangers is the account of all callers who are not trusted.
var strangers = charge.Account{ID: "strangers"}

// peerName tells peers apart before they have shown a key.
func peerName(info credentials.AuthInfo) string {
	p := access.PeerOf(info)
	p.Port, p.PID = 0, 0 // which one user can have many of
	return p.String()
}

// admission shares the connections of an agent out among callers who are trusted.
type admission struct {
	guard  *guard
	places *charge.Pool

	mu sync.Mutex
	of map[string][]*place // by account, the oldest first
}

// place is a connection that was let in.
type place struct {
	account charge.Account
	end     func()
}

func newAdmission(g *guard) *admission {
	return &admission{guard: g, places: charge.NewPool(maxConnections), of: make(map[string][]*place)}
}

// admit is rpc.ServerConfig.Admit. Who may do everything comes in at any time: if
// there is no place, the newest connection of the caller with the most is ended,
// as long as it has more than the one who comes.
func (m *admission) admit(info credentials.AuthInfo, end func()) (gone func()) {
	who := m.guard.callerBy(info)
	p := &place{account: m.guard.account(&who), end: end}
	var evict func()
	m.mu.Lock()
	if m.places.Take(p.account, 1) != nil {
		victim := m.most()
		if !p.account.Full || len(m.of[victim]) <= len(m.of[p.account.ID])+1 {
			m.mu.Unlock()
			return nil
		}
		// Its place is not free yet, but it will be.
		m.places.Force(p.account, 1)
		evict = m.of[victim][len(m.of[victim])-1].end
		m.drop(m.of[victim][len(m.of[victim])-1])
	}
	m.of[p.account.ID] = append(m.of[p.account.ID], p)
	m.mu.Unlock()
	if evict != nil {
		evict()
	}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.drop(p)
		m.places.Give(p.account, 1)
	}
}

// most returns the account with the most connections. mu is held.
func (m *admission) most() string {
	found := ""
	for id, places := range m.of {
		if len(places) > len(m.of[found]) {
			found = id
		}
	}
	return found
}

// drop takes a connection off those that can be ended. mu is held.
func (m *admission) drop(p *place) {
	id := p.account.ID
	left := slices.DeleteFunc(m.of[id], func(o *place) bool { return o == p })
	if m.of[id] = left; len(left) == 0 {
		delete(m.of, id)
	}
}

// tooManyCalls is the status of a call for which its caller has no share left.
func tooManyCalls(method string, r *charge.Refusal) *fault.Error {
	return fault.New(codes.ResourceExhausted, "too-many-calls", "too many calls are open: %v", r).
		On(method, "", nil).Hint("end some, such as watches and attached sessions")
}
