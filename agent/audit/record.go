package audit

import "time"

// The values of Record.Event.
const (
	Begin   = "begin"    // the call is about to change something
	End     = ""         // the call has ended
	LeftOut = "left-out" // of this caller LeftOut records were not written
)

// Record is the beginning or the end of a call. Fields are only ever added.
type Record struct {
	Time  time.Time `json:"time"` // when it ended, or began
	Event string    `json:"event,omitempty"`
	// Call is the same in the records of one call, and of no other of this agent.
	Call string `json:"call,omitempty"`

	Peer   Peer   `json:"peer"`          // who called, by the connection
	Key    string `json:"key,omitempty"` // fingerprint of the key that was shown
	Name   string `json:"name,omitempty"`
	Rule   string `json:"rule,omitempty"`   // why the caller is trusted, or not
	Policy string `json:"policy,omitempty"` // the rule of the policy that decided
	// WouldRefuse is set if only audit_only let the call through.
	WouldRefuse bool `json:"would_refuse,omitempty"`

	Method  string   `json:"method"`
	Args    []string `json:"args,omitempty"`
	Env     []string `json:"env,omitempty"` // names
	User    string   `json:"user,omitempty"`
	Paths   []string `json:"paths,omitempty"`
	Address string   `json:"address,omitempty"` // "tcp:127.0.0.1:80"
	Session string   `json:"session,omitempty"`
	// SessionName is the name by which the caller has asked for the session.
	SessionName string `json:"session_name,omitempty"`
	// PID and Signal are those of a signal.
	PID    uint32  `json:"pid,omitempty"`
	Signal *uint32 `json:"signal,omitempty"`
	// Detail is what else there is to say of a call, such as "step by 1.5s".
	Detail string `json:"detail,omitempty"`
	// LeftOut is how many records the event stands for.
	LeftOut uint64 `json:"left_out,omitempty"`

	BytesIn  uint64  `json:"bytes_in"`
	BytesOut uint64  `json:"bytes_out"`
	Seconds  float64 `json:"seconds"`
	Code     string  `json:"code"` // gRPC's, such as "OK"
	Reason   string  `json:"reason,omitempty"`
}

// Peer is a peer as a record has it.
type Peer struct {
	Network string  `json:"network,omitempty"`
	CID     uint32  `json:"cid,omitempty"`
	Port    uint32  `json:"port,omitempty"`
	UID     *uint32 `json:"uid,omitempty"`
	PID     int32   `json:"pid,omitempty"`
}
