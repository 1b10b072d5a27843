package policy

import (
	"fmt"
	"path"
	"slices"
)

// asked is a call that is being decided on, with what is looked up for it once,
// however many rules there are.
type asked struct {
	Call
	world World

	reads, writes []target
	address       address
	named         []string // directories of rules that allow the caller something
}

// target is a path that a call names.
type target struct {
	given  string
	places []string // it, clean, and where it leads if that is elsewhere
	err    error    // it cannot be resolved
}

// leadsElsewhere reports whether a path is not the one that it leads to.
func (t target) leadsElsewhere() bool { return len(t.places) > 1 }

// look reads the addresses and paths of the call, if p has any rules about such.
func (c *asked) look(p *Policy) {
	if c.Dial || c.Listen {
		c.address = parseAddress(c.Network, c.Address)
	}
	if !p.paths {
		return
	}
	c.reads, c.writes = c.resolveAll(c.Reads), c.resolveAll(c.Writes)
}

func (c *asked) resolveAll(paths []string) []target {
	targets := make([]target, len(paths))
	for i, given := range paths {
		targets[i] = c.resolve(given)
	}
	return targets
}

// resolve finds out where the path of a file leads.
func (c *asked) resolve(given string) target { return resolve(given, c.world.Resolve) }

func resolve(given string, follow func(string) (string, error)) target {
	t := target{given: given}
	switch {
	case len(given) > MaxPath:
		t.err = fmt.Errorf("it is longer than the %d bytes of a path", MaxPath)
		return t
	case !path.IsAbs(given):
		return t
	}
	clean := path.Clean(given)
	if follow == nil {
		t.places = []string{clean}
		return t
	}
	real, err := follow(clean)
	if err != nil || real == clean {
		t.places, t.err = []string{clean}, err
		return t
	}
	t.places = []string{clean, real}
	return t
}

// leadingTo returns paths of a rule that denies, and where they lead.
func (c *asked) leadingTo(roots []string) []string {
	all := slices.Clone(roots)
	for _, root := range roots {
		if t := c.resolve(root); t.err == nil && t.leadsElsewhere() {
			all = append(all, t.places[1])
		}
	}
	return all
}
