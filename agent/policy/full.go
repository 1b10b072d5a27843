package policy

import (
	"slices"

	"github.com/vsockrpc/vsockrpc/agent/access"
)

// Full reports whether a caller has the profile full: what it may do is bounded by
// rules of deny at most. Such callers have a reserve of all that others can use up.
// Of a nil policy it reports whether the caller's own profiles are full.
func (p *Policy) Full(who Caller) bool {
	if p == nil {
		return len(who.Roles) == 0 || slices.Contains(who.Roles, string(access.ProfileFull))
	}
	return slices.ContainsFunc(p.rolesOf(who), func(r role) bool { return r.Profile == access.ProfileFull })
}
