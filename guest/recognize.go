package guest

import (
	"context"
	"sync"

	"google.golang.org/grpc/codes"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// recognize compares the agent at the other end of a new connection with the one that
// answered first. With keys TLS has proved whose the connection is. Without, it has to
// be the same boot of the guest, or a later one of a guest with the same machine id.
// The agent may be another run: sessions find out by themselves.
func (g *Guest) recognize(info *guestv1.InfoResponse) error {
	if g.identity.proved() {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	first := g.first
	if first == nil {
		g.first = info
		return nil
	}
	switch {
	case first.GetBootId() != "" && first.GetBootId() == info.GetBootId():
		return nil
	case first.GetMachineId() != "" && first.GetMachineId() == info.GetMachineId():
		return nil
	case first.GetBootId() == "" && first.GetMachineId() == "":
		// It did not say who it is, as to a caller that it does not trust.
		return nil
	}
	return g.otherGuest("it is neither the boot nor the machine that answered first")
}

func (g *Guest) otherGuest(why string) *Error {
	e := g.newError("", codes.FailedPrecondition, ReasonOtherGuest, "the connection was lost, and another guest answers now: "+why)
	e.Remedy = "find out which guest has this address now; for one that was restarted, run the command again"
	return e
}

// runKey is the key of a *runPin in a context, for one guest.
type runKey struct{ guest *Guest }

// runPin is the boot of the guest that calls may be made in: that of the first one.
type runPin struct {
	mu  sync.Mutex
	run string
}

// is reports whether run is the one that calls may be made in.
func (p *runPin) is(run string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run == "" {
		p.run = run
	}
	return p.run == run
}

// withinRun returns a context whose calls are all made in one boot of the guest. Where
// keys are used, the key is enough.
func (g *Guest) withinRun(ctx context.Context) context.Context {
	if g.identity.proved() {
		return ctx
	}
	return context.WithValue(ctx, runKey{g}, &runPin{})
}

// runOf names the boot of a guest, or of an agent that does not know it, its run.
func runOf(info *guestv1.InfoResponse) string {
	if id := info.GetBootId(); id != "" {
		return "boot " + id
	}
	return "agent " + info.GetAgentId()
}
