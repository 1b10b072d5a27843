package policy

import (
	"strings"
	"sync"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/vsockrpc/vsockrpc/internal/declare"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// plan is what a policy looks at in the first request of a method, as the .proto
// file of the method declares it.
type plan struct {
	input protoreflect.FullName
	steps []step
	// always is what holds whatever the request says.
	always Call
	// mayRead is set for a method that changes something only if its request has
	// a LOOK_CHANGES or LOOK_ROLE field that says so.
	mayRead bool

	others sync.Map // of messages that stand for the input: protoreflect.FullName to []step
}

// step looks at one field of a message.
type step struct {
	field   protoreflect.FieldDescriptor
	look    guestv1.Look
	absent  string // the path that an empty one means
	limit   string // of LOOK_LIMIT: its word in a policy
	members []step // of LOOK_MEMBERS
}

// plans holds the plan of every method of guest.v1, made when the first is needed.
var plans = sync.OnceValue(func() map[string]*plan {
	all := make(map[string]*plan)
	for name, m := range declare.Methods() {
		p := &plan{input: m.Input().FullName()}
		p.steps = p.compile(short(name), m.Input())
		p.mayRead = p.mayRead && !p.always.Program
		all[name] = p
	}
	return all
})

// compile makes the steps for a message. Fields that need no look have none.
func (p *plan) compile(method string, m protoreflect.MessageDescriptor) []step {
	var steps []step
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		d := declare.Field(f)
		if d.GetOnly() != "" && d.GetOnly() != method {
			continue
		}
		s := step{field: f, look: d.GetLook(), absent: d.GetAbsent()}
		switch s.look {
		case guestv1.Look_LOOK_MEMBERS:
			if s.members = p.compile(method, f.Message()); len(s.members) == 0 {
				continue
			}
		case guestv1.Look_LOOK_DATA, guestv1.Look_LOOK_FLOW, guestv1.Look_LOOK_IDENTITY, guestv1.Look_LOOK_DETAIL,
			guestv1.Look_LOOK_LESS, guestv1.Look_LOOK_METHOD, guestv1.Look_LOOK_BELOW, guestv1.Look_LOOK_UNSPECIFIED:
			continue
		case guestv1.Look_LOOK_LISTENED:
			p.note(s.look)
			continue
		case guestv1.Look_LOOK_LIMIT:
			s.limit = limitWord(f)
		}
		p.note(s.look)
		steps = append(steps, s)
	}
	return steps
}

// note says what a method is about that has a field with such a look.
func (p *plan) note(look guestv1.Look) {
	c := &p.always
	switch look {
	case guestv1.Look_LOOK_USER:
		c.Subject = true
	case guestv1.Look_LOOK_ARGUMENTS:
		c.Program = true
	case guestv1.Look_LOOK_READ, guestv1.Look_LOOK_WRITE, guestv1.Look_LOOK_READ_OR_WRITE:
		c.Files = true
	case guestv1.Look_LOOK_READ_TREE:
		c.Files, c.ReadsBelow = true, true
	case guestv1.Look_LOOK_WRITE_TREE:
		c.Files, c.WritesBelow = true, true
	case guestv1.Look_LOOK_CONNECT_ADDRESS:
		c.Dial = true
	case guestv1.Look_LOOK_LISTEN_ADDRESS:
		c.Listen = true
	case guestv1.Look_LOOK_LISTENED:
		c.Listen, c.Accept = true, true
	case guestv1.Look_LOOK_CHANGES, guestv1.Look_LOOK_ROLE:
		p.mayRead = true
	}
}

// limitWord returns what a policy calls a limit: the name of its field without
// the unit, such as memory for memory_bytes.
func limitWord(f protoreflect.FieldDescriptor) string {
	word := string(f.Name())
	for _, unit := range []string{"_bytes", "_millis"} {
		word = strings.TrimSuffix(word, unit)
	}
	return strings.ReplaceAll(word, "_", "-")
}

// stepsFor returns the steps for a message of a type, which is the input of the
// method, or one with the same numbers that a service receives in its place: nil
// and false if it is neither.
func (p *plan) stepsFor(m protoreflect.MessageDescriptor) ([]step, bool) {
	if m.FullName() == p.input {
		return p.steps, true
	}
	if known, ok := p.others.Load(m.FullName()); ok {
		steps, _ := known.([]step)
		return steps, steps != nil
	}
	steps, ok := translate(p.steps, m)
	if !ok {
		steps = nil
	}
	p.others.Store(m.FullName(), steps)
	return steps, ok
}

// translate returns steps for another message: its fields with the same numbers,
// which have to be of the same kinds.
func translate(steps []step, m protoreflect.MessageDescriptor) ([]step, bool) {
	out := make([]step, len(steps))
	for i, s := range steps {
		f := m.Fields().ByNumber(s.field.Number())
		if f == nil || f.Kind() != s.field.Kind() || f.Cardinality() != s.field.Cardinality() {
			return nil, false
		}
		switch {
		case s.members == nil:
			s.field = f
		case f.Message().FullName() == s.field.Message().FullName():
			s.field = f // what is in it stays
		default:
			var ok bool
			if s.members, ok = translate(s.members, f.Message()); !ok {
				return nil, false
			}
			s.field = f
		}
		out[i] = s
	}
	return out, true
}
