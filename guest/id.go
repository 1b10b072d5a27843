package guest

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
)

// SessionID names a session of a guest's agent. It is random, made by the
// client that starts the session, and never used again.
type SessionID [16]byte

// NewSessionID returns a new random id.
func NewSessionID() SessionID {
	var id SessionID
	rand.Read(id[:])
	return id
}

// ParseSessionID parses what String returns: "s" and 32 hexadecimal digits.
func ParseSessionID(s string) (SessionID, error) {
	var id SessionID
	digits, ok := strings.CutPrefix(s, "s")
	if !ok || len(digits) != 2*len(id) {
		return id, fmt.Errorf("session id %q: want s and %d hexadecimal digits", s, 2*len(id))
	}
	if _, err := hex.Decode(id[:], []byte(digits)); err != nil {
		return SessionID{}, fmt.Errorf("session id %q: %w", s, err)
	}
	return id, nil
}

// SessionIDFromBytes returns the id that a message of the agent carries.
func SessionIDFromBytes(b []byte) (SessionID, error) {
	var id SessionID
	if len(b) != len(id) {
		return id, fmt.Errorf("session id of %d bytes: want %d", len(b), len(id))
	}
	copy(id[:], b)
	return id, nil
}

// String returns the id with a leading letter, so that it is never taken for a
// process id.
func (id SessionID) String() string { return "s" + hex.EncodeToString(id[:]) }

// IsZero reports whether id is the zero id, which names no session.
func (id SessionID) IsZero() bool { return id == SessionID{} }
