package policy

import (
	"path"
	"slices"
)

// denies reports whether a rule denies a call: one that is of everything that the
// rule mentions, or may be. A rule about paths notes in d what is to be left out of
// a call that it does not deny as a whole.
func (r *Rule) denies(c *asked, d *Decision) bool {
	if !r.names(c.Method) {
		return false
	}
	if c.Unseen {
		return true
	}
	if len(r.Args) > 0 && !(c.Program && slices.ContainsFunc(r.Args, func(p []string) bool { return matchArgs(p, c.Args, true) })) {
		return false
	}
	if len(r.Users) > 0 && !(c.Subject && matchID(r.Users, c.User, c.world.UserID)) {
		return false
	}
	return r.deniesAddress(c, d) && r.deniesFiles(c, d)
}

func (r *Rule) deniesAddress(c *asked, d *Decision) bool {
	if len(r.dial) == 0 && len(r.listen) == 0 {
		return true
	}
	if !c.Dial && !c.Listen {
		return false
	}
	d.NoLinks = true
	may := func(p place) bool { return p.denies(c.address) }
	return c.Dial && slices.ContainsFunc(r.dial, may) || c.Listen && !c.Accept && slices.ContainsFunc(r.listen, may)
}

// deniesFiles is about read and write of a rule: what is denied to read may not be
// written either. A path is denied if it is one of them, is beneath one or leads
// there, and for what moves or removes a directory as a whole, if it contains one.
// Other calls that go beneath a directory leave the denied out.
func (r *Rule) deniesFiles(c *asked, d *Decision) bool {
	if len(r.Read) == 0 && len(r.Write) == 0 {
		return true
	}
	if !c.Files {
		return false
	}
	if len(c.reads)+len(c.writes) == 0 {
		return true // of a request that names no file yet
	}
	toRead := c.leadingTo(r.Read)
	toWrite := slices.Concat(toRead, c.leadingTo(r.Write))
	hit := func(targets []target, denied []string, whole bool) bool {
		return slices.ContainsFunc(targets, func(t target) bool {
			return !path.IsAbs(t.given) || t.err != nil || slices.ContainsFunc(t.places, func(place string) bool {
				return below(denied, place) || whole && slices.ContainsFunc(denied, func(dir string) bool { return within(place, dir) })
			})
		})
	}
	if hit(c.reads, toRead, false) && len(toRead) > 0 || hit(c.writes, toWrite, c.WritesBelow) {
		return true
	}
	if len(c.writes) > 0 {
		d.Denied = append(d.Denied, toWrite...)
	} else {
		d.Denied = append(d.Denied, toRead...)
	}
	return false
}
