package audit

import (
	"time"
)

// Record is one call. Fields are only ever added.
type Record struct {
	Time   time.Time `json:"time"`          // when it ended
	Peer   Peer      `json:"peer"`          // who called, by the connection
	Key    string    `json:"key,omitempty"` // fingerprint of the key that was shown
	Name   string    `json:"name,omitempty"`
	Rule   string    `json:"rule,omitempty"`   // why the caller is trusted, or not
	Policy string    `json:"policy,omitempty"` // the rule of the policy that decided
	// WouldRefuse is set if only audit_only let the call through.
	WouldRefuse bool `json:"would_refuse,omitempty"`

	Method  string   `json:"method"`
	Args    []string `json:"args,omitempty"`
	Env     []string `json:"env,omitempty"` // names
	User    string   `json:"user,omitempty"`
	Paths   []string `json:"paths,omitempty"`
	Address string   `json:"address,omitempty"` // "tcp:127.0.0.1:80"
	Session string   `json:"session,omitempty"`

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

// Bounds of what a record takes over of a request.
const (
	maxWords = 64
	maxWord  = 512
)

// clip bounds a list of words and their lengths, and says that it did.
func clip(words []string) []string {
	if words == nil {
		return nil
	}
	out := make([]string, 0, min(len(words), maxWords+1))
	for i, w := range words {
		if i == maxWords {
			out = append(out, "...")
			break
		}
		out = append(out, clipWord(w))
	}
	return out
}

func clipWord(w string) string {
	if len(w) > maxWord {
		return w[:maxWord] + "..."
	}
	return w
}

// clean bounds and redacts what came from the caller.
func (r *Record) clean() {
	r.Args, r.Env, r.Paths = clip(Redact(r.Args)), clip(r.Env), clip(r.Paths)
	r.User, r.Address, r.Method, r.Name = clipWord(r.User), clipWord(r.Address), clipWord(r.Method), clipWord(r.Name)
}
