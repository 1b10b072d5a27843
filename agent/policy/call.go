package policy

import (
	"path"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/vsockrpc/vsockrpc/internal/bulk"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// Call is what rules look at: a method, and what its request, or the first of
// them, asks for.
type Call struct {
	Method string // "/package.Service/Method"
	// Unseen is set if the request could not be looked at. No rule about contents
	// allows such a call, and every rule that denies something of its method does.
	Unseen bool

	// Subject is set for calls that act as a user of the guest: the others
	// cannot be bound to users.
	Subject     bool
	User, Group string // empty: the agent's own, the user's

	// Program is set for calls that start one.
	Program    bool
	Args       []string
	Env        []string // "NAME=value", or "NAME" if the value is not known
	ClearEnv   bool     // the environment starts empty
	OwnName    bool     // argv[0] is another than the program
	LoginShell bool
	Dir        string   // the working directory; empty: the user's home
	Umask      *uint32  // nil: 022
	Limits     []string // that are set, by their words in a policy

	// SessionID and SessionName name the session that the call is about, if it is
	// about one. Whoever decides sets OwnSession if this caller started it.
	SessionID   string
	SessionName string
	OwnSession  bool

	// Paths of files, as the caller has given them. ReadsBelow and WritesBelow are
	// set if the call reaches what is beneath them, too.
	Files                   bool
	Reads, Writes           []string
	ReadsBelow, WritesBelow bool

	// Network and Address are those of a connection to make, or of a listener.
	// Accept is set for a connection to a listener that exists.
	Dial, Listen, Accept bool
	Network, Address     string

	// Reading is set for a call that only reads, of a method that may do more.
	Reading bool

	tooLong bool // the names below a path take more than maxPathBytes with it
}

// CallOf returns the call of a method with a request, which is its message or,
// of a stream, the first one. Its cost is linear in what the request holds.
func CallOf(method string, req any) Call {
	p := plans()[method]
	if p == nil {
		return Call{Method: method}
	}
	v := view{Call: p.always}
	v.Method = method
	if len(p.steps) == 0 {
		return v.Call
	}
	unseen := Call{Method: method, Unseen: true}
	if f, ok := req.(*bulk.Frame); ok {
		req = f.Control
	}
	m, ok := req.(proto.Message)
	if !ok || m == nil {
		return unseen
	}
	msg := m.ProtoReflect()
	steps, ok := p.stepsFor(msg.Descriptor())
	if !ok {
		return unseen
	}
	v.take(msg, steps)
	v.Reading = p.mayRead && v.sawMode && !v.changes
	return v.Call
}

// view is a call in the making.
type view struct {
	Call
	sawMode bool // a field that says whether the call changes something was there
	changes bool
}

// about is what one message says of its paths.
type about struct {
	path      string // of LOOK_READ_OR_WRITE
	hasPath   bool
	changes   bool
	reads     bool
	recursive bool
	written   string // the last path that is written to
	names     []string
	target    string
	hasTarget bool
	hard      bool
}

// take looks at a message.
func (v *view) take(m protoreflect.Message, steps []step) {
	var a about
	for i := range steps {
		v.step(m, &steps[i], &a)
	}
	switch {
	case !a.hasPath:
	case a.changes:
		v.Writes = append(v.Writes, a.path)
		if a.reads {
			v.Reads = append(v.Reads, a.path)
		}
	default:
		v.Reads = append(v.Reads, a.path)
	}
	v.below(a.written, a.names)
	if a.hasTarget {
		if !a.hard && !path.IsAbs(a.target) {
			a.target = path.Join(path.Dir(a.written), a.target)
		}
		v.Writes = append(v.Writes, a.target)
	}
	if a.recursive {
		v.ReadsBelow, v.WritesBelow = len(v.Reads) > 0, len(v.Writes) > 0
	}
}

// below adds names below a directory to what is written, unless that would take
// more memory than a call may name: then Check fails.
func (v *view) below(dir string, names []string) {
	total := 0
	for _, name := range names {
		if name == "" {
			continue
		}
		if total += len(dir) + 1 + len(name); total > maxPathBytes {
			v.tooLong = true
			return
		}
		v.Writes = append(v.Writes, dir+"/"+name)
	}
}

// step looks at one field.
func (v *view) step(m protoreflect.Message, s *step, a *about) {
	switch s.look {
	case guestv1.Look_LOOK_MEMBERS:
		switch {
		case s.field.IsList():
			list := m.Get(s.field).List()
			for i := range list.Len() {
				v.take(list.Get(i).Message(), s.members)
			}
		case m.Has(s.field):
			v.take(m.Get(s.field).Message(), s.members)
		}
	case guestv1.Look_LOOK_READ, guestv1.Look_LOOK_READ_TREE:
		v.Reads = append(v.Reads, pathOf(m, s))
	case guestv1.Look_LOOK_WRITE, guestv1.Look_LOOK_WRITE_TREE:
		a.written = pathOf(m, s)
		v.Writes = append(v.Writes, a.written)
	case guestv1.Look_LOOK_READ_OR_WRITE:
		a.path, a.hasPath = pathOf(m, s), true
	case guestv1.Look_LOOK_NAMES:
		a.names = textsOf(m, s)
	case guestv1.Look_LOOK_LINK_TARGET:
		a.target, a.hasTarget = string(m.Get(s.field).Bytes()), true
	case guestv1.Look_LOOK_HARD_LINK:
		a.hard = m.Get(s.field).Bool()
	case guestv1.Look_LOOK_RECURSIVE:
		a.recursive = m.Has(s.field)
	case guestv1.Look_LOOK_READS:
		a.reads = m.Has(s.field)
	case guestv1.Look_LOOK_CHANGES:
		v.sawMode = true
		if m.Has(s.field) {
			a.changes, v.changes = true, true
		}
	case guestv1.Look_LOOK_ROLE:
		v.sawMode = true
		v.changes = v.changes || m.Get(s.field).Enum() != guestv1.Role_ROLE_OBSERVER.Number()
	default:
		v.subject(m, s)
	}
}

// subject looks at a field that is not about files.
func (v *view) subject(m protoreflect.Message, s *step) {
	value := m.Get(s.field)
	switch s.look {
	case guestv1.Look_LOOK_USER:
		v.User = string(value.Bytes())
	case guestv1.Look_LOOK_GROUP:
		v.Group = string(value.Bytes())
	case guestv1.Look_LOOK_ARGUMENTS:
		v.Args = textsOf(m, s)
	case guestv1.Look_LOOK_ENVIRONMENT:
		v.Env = append(v.Env, textsOf(m, s)...)
	case guestv1.Look_LOOK_TERM:
		if term := value.String(); term != "" {
			v.Env = append(v.Env, "TERM="+term)
		}
	case guestv1.Look_LOOK_CLEAR_ENVIRONMENT:
		v.ClearEnv = value.Bool()
	case guestv1.Look_LOOK_ARGUMENT_ZERO:
		v.OwnName = m.Has(s.field)
	case guestv1.Look_LOOK_LOGIN_SHELL:
		v.LoginShell = value.Bool()
	case guestv1.Look_LOOK_DIRECTORY:
		v.Dir = string(value.Bytes())
	case guestv1.Look_LOOK_UMASK:
		if m.Has(s.field) {
			v.Umask = new(uint32(value.Uint()))
		}
	case guestv1.Look_LOOK_LIMIT:
		if m.Has(s.field) {
			v.Limits = append(v.Limits, s.limit)
		}
	case guestv1.Look_LOOK_LIMIT_NAME:
		v.Limits = append(v.Limits, strings.ToLower(value.String()))
	case guestv1.Look_LOOK_SESSION_ID:
		v.SessionID = string(value.Bytes())
	case guestv1.Look_LOOK_SESSION_NAME:
		v.SessionName = value.String()
	case guestv1.Look_LOOK_NETWORK:
		v.Network = value.String()
	case guestv1.Look_LOOK_CONNECT_ADDRESS, guestv1.Look_LOOK_LISTEN_ADDRESS:
		v.Address = string(value.Bytes())
	}
}

func pathOf(m protoreflect.Message, s *step) string {
	if p := string(m.Get(s.field).Bytes()); p != "" {
		return p
	}
	return s.absent
}

// textsOf returns the elements of a list, or what is in a field that is none.
func textsOf(m protoreflect.Message, s *step) []string {
	if !s.field.IsList() {
		return []string{string(m.Get(s.field).Bytes())}
	}
	list := m.Get(s.field).List()
	out := make([]string, list.Len())
	for i := range out {
		out[i] = string(list.Get(i).Bytes())
	}
	return out
}

// EnvNames returns the names of the variables that the call sets.
func (c *Call) EnvNames() []string {
	names := make([]string, len(c.Env))
	for i, e := range c.Env {
		names[i], _, _ = strings.Cut(e, "=")
	}
	return names
}

// relative reports whether the program is looked for in a directory of the
// caller's choice.
func (c *Call) relative() bool {
	return len(c.Args) > 0 && strings.Contains(c.Args[0], "/") && !strings.HasPrefix(c.Args[0], "/")
}

// short returns "Service/Method" of a method.
func short(method string) string {
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	return service[strings.LastIndexByte(service, '.')+1:] + "/" + name
}
