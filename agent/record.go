//go:build linux

package agent

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/agent/audit"
	"github.com/vsockrpc/vsockrpc/agent/internal/charge"
	"github.com/vsockrpc/vsockrpc/agent/internal/fault"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// Bounds on the records of one caller in each second, so that nobody pushes the
// records of others out of the log. What is left out is counted, and the count is
// recorded. The records of calls that change something are never left out.
const (
	maxRefusalRecords = 20  // calls that were not begun, of a caller or all strangers
	maxReadRecords    = 100 // calls that change nothing, of callers who may not do everything
)

// audited reports whether the call is recorded at all.
func (c *call) audited() bool {
	return c.guard.audit != nil && access.ClassOf(c.method) != access.Open
}

// begin records that a call is about to change something: a call that ends the
// agent, or the guest, has no record of its end. mu is held.
func (c *call) begin() {
	if !c.audited() || !access.ClassOf(c.method).Changes() || c.what.Reading {
		return
	}
	c.begun = true
	r := c.record()
	r.Event = audit.Begin
	c.guard.audit.Write(r)
}

// end records a call that has ended with err.
func (c *call) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if c.timer != nil {
		c.timer.Stop()
	}
	if !c.audited() || !c.begun && !c.recordable(err) {
		return
	}
	r := c.record()
	r.BytesIn, r.BytesOut, r.Seconds = c.in.Load(), c.out.Load(), r.Time.Sub(c.start).Seconds()
	r.Code = status.Code(err).String()
	if f, ok := errors.AsType[*fault.Error](err); ok {
		r.Reason = f.Reason()
	}
	c.guard.audit.Write(r)
}

// recordable reports whether the caller has a record left in this second for a call
// that has changed nothing.
func (c *call) recordable(err error) bool {
	g, rate := c.guard, &c.guard.readRecords
	if err != nil {
		rate = &g.refusalRecords
	} else if c.account.Full {
		return true
	}
	who := c.who
	return rate.Take(c.account, func(skipped int) {
		r := audit.Record{Time: time.Now(), Event: audit.LeftOut, LeftOut: uint64(skipped), Rule: c.account.ID}
		if c.account != strangers {
			r.Peer, r.Key, r.Name, r.Rule = auditPeer(who), who.key, who.name, who.decision.Rule
		}
		g.audit.Write(r)
	})
}

// record returns what is recorded of a call at any time. mu is held.
func (c *call) record() audit.Record {
	r := audit.Record{
		Time: time.Now(), Call: c.guard.run + "-" + strconv.FormatUint(c.number, 16),
		Peer: auditPeer(c.who), Key: c.who.key, Name: c.who.name, Rule: c.who.decision.Rule,
		Policy: c.verdict.Rule, WouldRefuse: c.verdict.WouldRefuse,
		Method: c.method, Args: c.what.Args, Env: c.what.EnvNames(), User: c.what.User,
		Paths:   slices.Concat(c.what.Reads, c.what.Writes),
		Session: hex.EncodeToString([]byte(c.what.SessionID)), SessionName: c.what.SessionName,
	}
	if c.what.Network != "" || c.what.Address != "" {
		r.Address = c.what.Network + ":" + c.what.Address
	}
	r.Detail = c.detail
	if c.signal != nil {
		n := c.signal.GetSignal()
		r.PID, r.Signal = c.signal.GetPid(), &n
	}
	return r
}

// note keeps what records say beside what the policy looks at.
// mu is held.
func (c *call) note(req any) {
	switch r := req.(type) {
	case *guestv1.SignalRequest:
		c.signal = r
	case *guestv1.SetClockRequest:
		c.detail = fmt.Sprintf("set to %s", time.Unix(0, r.GetWallUnixNanos()).UTC().Format(time.RFC3339Nano))
	case *guestv1.AdjustClockRequest:
		c.detail = fmt.Sprintf("adjust by %v", time.Duration(r.GetAdjustNanos()))
	}
}

func auditPeer(who *caller) audit.Peer {
	p := audit.Peer{Network: who.peer.Network, CID: who.peer.CID, Port: who.peer.Port, PID: who.peer.PID}
	if who.peer.HasCreds {
		p.UID = &who.peer.UID
	}
	return p
}

// records is what the guard needs to write records.
type records struct {
	run            string // of the agent, for the names of calls
	refusalRecords charge.Rate
	readRecords    charge.Rate
}

func newRecords(agentID string) records {
	return records{
		run:            agentID[:min(len(agentID), 8)],
		refusalRecords: charge.Rate{PerSecond: maxRefusalRecords},
		readRecords:    charge.Rate{PerSecond: maxReadRecords},
	}
}
