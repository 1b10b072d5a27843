// Package charge accounts for what callers make the agent hold: connections,
// calls, sessions, bytes, records. What there is of one thing is a Pool; it keeps a
// share for each caller and a reserve for those who may do everything, so that no
// caller takes from the others what they need, nor locks out who could end it.
package charge

import (
	"context"
	"fmt"
	"sync"
)

// Account is whom something is charged to. The zero Account is the agent's own
// program, which has no key and may not do everything.
type Account struct {
	// ID is the same for all connections of a caller: the fingerprint of its key,
	// or what is known of its peer.
	ID string
	// Full is set for callers who may do everything.
	Full bool
}

type contextKey struct{}

// With returns a context of calls of an account.
func With(ctx context.Context, a Account) context.Context {
	return context.WithValue(ctx, contextKey{}, a)
}

// Everybody is charged where nobody has said whom to charge: in a program that
// uses a service without an agent. There are no others to protect.
var Everybody = Account{Full: true}

// From returns the account of a context, or Everybody.
func From(ctx context.Context) Account {
	if a, ok := ctx.Value(contextKey{}).(Account); ok {
		return a
	}
	return Everybody
}

// Pool is what there is of one thing. Its methods may be called concurrently.
//
// Callers who may do everything get all there is. Any other may hold as much as is
// still free to it and its like after that: one alone half of what is not reserved,
// two a third each. There is always something for the next caller.
type Pool struct {
	limit, reserve int64

	mu   sync.Mutex
	used int64
	held map[string]int64 // by Account.ID, not 0
}

// reserved is the part of a pool that is kept for callers who may do everything.
const reserved = 16

// NewPool returns a pool of so much, of which a sixteenth is the reserve.
func NewPool(limit int64) *Pool {
	return &Pool{limit: limit, reserve: limit / reserved, held: make(map[string]int64)}
}

// Limit returns how much there is.
func (p *Pool) Limit() int64 { return p.limit }

// Refusal is why a pool gives no more.
type Refusal struct {
	Held  int64 // by the caller
	Used  int64 // by all
	Limit int64
}

// Error says whether the share is used up or all of it.
func (r *Refusal) Error() string {
	if r.Used >= r.Limit {
		return fmt.Sprintf("all %d are taken", r.Limit)
	}
	return fmt.Sprintf("this caller holds %d, and %d of %d are taken in all: the others are for other callers", r.Held, r.Used, r.Limit)
}

// Take charges n to an account, or returns why not. What was taken is given back
// with Give.
func (p *Pool) Take(a Account, n int64) *Refusal {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.fits(a, n) {
		return &Refusal{Held: p.held[a.ID], Used: p.used, Limit: p.limit}
	}
	p.add(a, n)
	return nil
}

// Fits reports whether Take would succeed now.
func (p *Pool) Fits(a Account, n int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fits(a, n)
}

func (p *Pool) fits(a Account, n int64) bool {
	free := p.limit - p.used - n
	if a.Full {
		return free >= 0
	}
	free -= p.reserve
	held := p.held[a.ID]
	return free >= 0 && (held == 0 || held+n <= free)
}

// Force charges n to an account, whatever there is: for what is there already, or
// is about to be given back by another.
func (p *Pool) Force(a Account, n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.add(a, n)
}

func (p *Pool) add(a Account, n int64) {
	p.used += n
	if p.held[a.ID] += n; p.held[a.ID] == 0 {
		delete(p.held, a.ID)
	}
}

// Give gives n back that was charged to an account.
func (p *Pool) Give(a Account, n int64) { p.Force(a, -n) }

// Used returns how much is taken in all.
func (p *Pool) Used() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used
}

// Held returns how much an account holds.
func (p *Pool) Held(a Account) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held[a.ID]
}
