//go:build linux

package agent

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/vsockrpc/vsockrpc/agent/access"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// recheckInterval is how often the keys and the policy are looked at while there is
// a connection that they concern. A change of them reaches every open call with the
// next look, and every connection lastAnswers later.
const recheckInterval = 500 * time.Millisecond

// openCalls are the calls that a change of keys or policy may end.
type openCalls struct {
	guard    *guard
	interval time.Duration
	// connections returns how many connections there are, and drop ends those that
	// were made by somebody who is not known any more.
	connections func() int
	drop        func(known func(credentials.AuthInfo) bool)

	mu       sync.Mutex
	calls    map[*call]bool
	watching bool
	idle     int    // looks in a row without a connection
	seen     uint64 // the version of keys and policy at the last look
}

func (o *openCalls) add(c *call) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.calls == nil {
		o.calls = make(map[*call]bool)
	}
	o.calls[c] = true
	o.start()
}

func (o *openCalls) remove(c *call) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.calls, c)
}

// watch has open calls and connections compared with keys and policy from now on.
func (o *openCalls) watch() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.start()
}

// start is watch with mu held.
func (o *openCalls) start() {
	if !o.watching {
		o.watching, o.idle = true, 0
		time.AfterFunc(o.interval, o.look)
	}
}

// look compares the open calls with keys and policy, if those have changed.
func (o *openCalls) look() {
	g := o.guard
	g.hosts.Look()
	g.policy.Look()
	version := g.version()
	o.mu.Lock()
	changed := version != o.seen
	o.seen = version
	calls := make([]*call, 0, len(o.calls))
	for c := range o.calls {
		calls = append(calls, c)
	}
	o.mu.Unlock()
	for _, c := range calls {
		c.recheck(version)
	}
	if changed {
		o.dropLater(version, maxDropDelays)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	// A connection that is being made may not be counted yet at the first look.
	if o.idle++; len(o.calls) > 0 || o.connections() > 0 {
		o.idle = 0
	}
	if o.watching = o.idle < 2; o.watching && g.stopping.Err() == nil {
		time.AfterFunc(o.interval, o.look)
	}
}

// maxDropDelays bounds how often connections are left for lastAnswers more.
const maxDropDelays = 4

// dropLater has the connections of callers who are not known any more dropped, when
// the calls that were stopped had time to say why: lastAnswers after the last of them
// has ended. Another change begins that time anew.
func (o *openCalls) dropLater(version uint64, delays int) {
	time.AfterFunc(lastAnswers, func() {
		answering, current := o.answering(version)
		switch {
		case !current:
		case answering && delays > 0:
			o.dropLater(version, delays-1)
		case delays > 0:
			o.dropLater(version, 0)
		default:
			o.drop(o.guard.known)
		}
	})
}

// answering reports whether a call that was stopped has not ended yet, and whether
// keys and policy are those of a version.
func (o *openCalls) answering(version uint64) (answering, current bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for c := range o.calls {
		answering = answering || c.stopped() != nil
	}
	return answering, version == o.seen
}

// version changes with every change of keys and policy.
func (g *guard) version() uint64 { return g.hosts.Version() + g.policy.Version() }

// identify finds out who calls, if keys or policy have changed since it was found out
// last, and returns why that caller may not call the method at all. mu is held, or
// the call not known to anybody yet.
func (c *call) identify() error {
	version := c.guard.version()
	if c.who != nil && c.version == version {
		return nil
	}
	who := c.guard.callerBy(c.info)
	c.who, c.version = &who, version
	class := access.ClassOf(c.method)
	switch {
	case c.guard.locked != "" && class != access.Open:
		return misconfigured(c.method, c.guard.locked)
	case !who.decision.Trusted && !class.Anybody():
		return refusal(c.method, who.decision)
	case !who.face.Has(class):
		return otherFace(c.method, who.face)
	}
	return nil
}

// recheckTime is how long the paths of a call may take to be resolved again: some lead
// to file systems of users. There is a second more to it (subject.Look).
const recheckTime = 500 * time.Millisecond

// recheck stops the call if keys and policy, of a version that is new to it, do not
// allow it, and gives it the bounds that they have now. It waits for nothing that a
// user of the guest can delay: other calls are to be looked at too.
func (c *call) recheck(version uint64) {
	// Who holds mu is deciding about the call, and has let it do nothing yet, or will
	// let it go at once. The next look finds the call again.
	if !c.mu.TryLock() {
		return
	}
	before := c.version
	var err error
	if before != version {
		err = c.identify()
	}
	switch {
	case err != nil:
		c.stop(err)
	case c.version == before || !c.decided:
	case len(c.what.Reads)+len(c.what.Writes)+len(c.what.Dir) > 0:
		go func() {
			defer c.mu.Unlock()
			c.ruleAgain()
		}()
		return
	default:
		c.ruleAgain()
	}
	c.mu.Unlock()
}

// ruleAgain stops the call if the policy does not allow it any more as it is. mu is
// held.
func (c *call) ruleAgain() {
	p, _ := c.guard.policy.Get()
	began := c.verdict
	ctx, cancel := context.WithTimeout(context.Background(), recheckTime)
	defer cancel()
	err := c.rule(ctx, p)
	if ctx.Err() != nil {
		d := began
		d.Text, d.Remedy = "a file system of the guest does not say whether the policy still allows the call", "call again"
		err = denial(c.method, d)
	}
	if err == nil && (!slices.Equal(began.Dirs, c.verdict.Dirs) || !slices.Equal(began.Denied, c.verdict.Denied) || !began.NoLinks && c.verdict.NoLinks) {
		// The call goes on in directories, and by paths, that were decided on when it
		// began.
		d := c.verdict
		d.Text, d.Remedy = "what the policy lets this call reach has changed", "call again"
		err = denial(c.method, d)
	}
	if err == nil && c.showsOthers() && c.lessened() {
		err = c.lessFault()
	}
	if err != nil {
		c.stop(err)
	}
}

// showsOthers reports whether the call goes on to show or touch the sessions of other
// callers. mu is held.
func (c *call) showsOthers() bool {
	switch c.what.Method {
	case guestv1.ProcessService_WatchSessions_FullMethodName, guestv1.ProcessService_ListProcesses_FullMethodName:
		return true
	case guestv1.ProcessService_Attach_FullMethodName:
		return !c.what.OwnSession
	}
	return false
}
