package policy

import (
	"path"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/vsockrpc/vsockrpc/internal/bulk"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// Call is what rules look at: a method, and what its request, or the first of
// them, asks for.
type Call struct {
	Method string // "/package.Service/Method"

	// Subject is set for calls that act as a user of the guest: the others
	// cannot be bound to users.
	Subject     bool
	User, Group string // empty: the agent's own, the user's

	// Program is set for calls that start one.
	Program    bool
	Args       []string
	Env        []string // names only
	OwnName    bool     // argv[0] is another than the program
	LoginShell bool
	Relative   bool // the program's path is relative to a directory of the caller's choice

	// SessionID and SessionName name the session that the call is about, if it is
	// about one. Whoever decides sets OwnSession if this caller started it.
	SessionID   string
	SessionName string
	OwnSession  bool

	// Paths of files, as the caller has given them.
	Files         bool
	Reads, Writes []string

	// Network and Address are those of a connection to make, or of a listener.
	Dial, Listen     bool
	Network, Address string

	// Reading is set for a call that only reads, of a method that may do more.
	Reading bool

	tooLong bool // its paths are more than Check allows
}

// CallOf returns the call of a method with a request, which is its message or,
// of a stream, the first one. Of messages that it does not know it tells the
// method alone, which no rule about contents allows.
func CallOf(method string, req any) Call {
	c := Call{Method: method}
	if f, ok := req.(*bulk.Frame); ok {
		req = f.Control
	}
	m, ok := req.(proto.Message)
	if !ok || m == nil {
		return c
	}
	// Without what a service has put around the message.
	switch m := m.ProtoReflect().Interface().(type) {
	case *guestv1.ExecRequest:
		// Attach's requests are received as Exec's, which are the same.
		c.open(m.GetOpen(), method == guestv1.ProcessService_Exec_FullMethodName)
	case *guestv1.AttachRequest:
		c.open(m.GetOpen(), false)
	case *guestv1.StartRequest:
		c.SessionID = string(m.GetSessionId())
		c.program(m.GetSpec())
	case *guestv1.SignalRequest:
		c.SessionID = string(m.GetSessionId())
	case *guestv1.WaitRequest:
		c.SessionID = string(m.GetSessionId())
	case *guestv1.RemoveRequest:
		c.SessionID = string(m.GetSessionId())
	case *guestv1.DialRequest:
		if method != guestv1.ForwardService_Dial_FullMethodName {
			c.Listen = true // Accept's, which has the same members
			break
		}
		c.Dial, c.Network, c.Address = true, m.GetOpen().GetNetwork(), string(m.GetOpen().GetAddress())
	case *guestv1.ListenRequest:
		c.Listen, c.Network, c.Address = true, m.GetNetwork(), string(m.GetAddress())
	case *guestv1.AcceptRequest:
		// The name of a connection that waits is known to who listens.
		c.Listen = true
	case *guestv1.DiskFreeRequest:
		c.file(m.GetSubject(), [][]byte{m.GetPath()}, nil)
	default:
		c.fileRequest(m)
	}
	return c
}

func (c *Call) open(o *guestv1.Open, starts bool) {
	c.SessionID, c.SessionName = string(o.GetSessionId()), o.GetName()
	if starts {
		c.program(o.GetSpec())
	}
	// An observer reads; an owner writes stdin, and ends the session.
	c.Reading = !starts && o.GetRole() == guestv1.Role_ROLE_OBSERVER && !o.GetTakeOver()
}

func (c *Call) program(s *guestv1.SessionSpec) {
	c.Program, c.Subject = true, true
	c.User, c.Group = string(s.GetUser()), string(s.GetGroup())
	c.Args = texts(s.GetArgs())
	for _, e := range s.GetEnv() {
		name, _, _ := strings.Cut(string(e), "=")
		c.Env = append(c.Env, name)
	}
	c.OwnName = s != nil && s.Arg0 != nil
	c.LoginShell = s.GetLoginShell()
	c.relative()
}

// relative notes a program that is looked for in a directory of the caller's.
func (c *Call) relative() {
	c.Relative = len(c.Args) > 0 && strings.Contains(c.Args[0], "/") && !strings.HasPrefix(c.Args[0], "/")
}

// fileRequest describes the requests of FileService.
func (c *Call) fileRequest(m proto.Message) {
	one := func(p []byte) [][]byte { return [][]byte{p} }
	switch m := m.(type) {
	case *guestv1.StatRequest:
		c.file(m.GetSubject(), one(m.GetPath()), nil)
	case *guestv1.ReadLinkRequest:
		c.file(m.GetSubject(), one(m.GetPath()), nil)
	case *guestv1.ListRequest:
		c.file(m.GetSubject(), one(m.GetPath()), nil)
	case *guestv1.DiskUsageRequest:
		c.file(m.GetSubject(), one(m.GetPath()), nil)
	case *guestv1.ListXattrsRequest:
		c.file(m.GetSubject(), one(m.GetPath()), nil)
	case *guestv1.HashRequest:
		c.file(m.GetSubject(), one(m.GetPath()), nil)
	case *guestv1.ReadRequest:
		c.file(m.GetSubject(), one(m.GetPath()), nil)
	case *guestv1.WatchRequest:
		c.file(m.GetSubject(), one(m.GetPath()), nil)
	case *guestv1.MakeDirectoryRequest:
		c.file(m.GetSubject(), nil, one(m.GetPath()))
	case *guestv1.RemoveFileRequest:
		c.file(m.GetSubject(), nil, one(m.GetPath()))
	case *guestv1.SetAttributesRequest:
		c.file(m.GetSubject(), nil, one(m.GetPath()))
	case *guestv1.SetXattrRequest:
		c.file(m.GetSubject(), nil, one(m.GetPath()))
	case *guestv1.RenameRequest:
		c.file(m.GetSubject(), nil, [][]byte{m.GetPath(), m.GetNewPath()})
	case *guestv1.MakeLinkRequest:
		// Whatever can be reached through the new name.
		target := string(m.GetTarget())
		if !m.GetHard() && !path.IsAbs(target) {
			target = path.Join(path.Dir(string(m.GetPath())), target)
		}
		c.file(m.GetSubject(), nil, [][]byte{m.GetPath(), []byte(target)})
	case *guestv1.MakeTemporaryRequest:
		dir := m.GetDirectory()
		if len(dir) == 0 {
			dir = []byte("/tmp")
		}
		c.file(m.GetSubject(), nil, [][]byte{dir, []byte(string(dir) + "/" + string(m.GetPattern()))})
	case *guestv1.OpenRequest:
		o := m.GetOpen()
		writes := o.GetWrite() || o.GetCreate() || o.GetTruncate() || o.GetAppend()
		var r, w [][]byte
		if o.GetRead() || !writes {
			r = one(o.GetPath())
		}
		if writes {
			w = one(o.GetPath())
		}
		c.file(o.GetSubject(), r, w)
		c.Reading = o != nil && !writes
	case *guestv1.UploadRequest:
		o := m.GetOpen()
		c.file(o.GetSubject(), nil, c.within(o.GetDestination(), o.GetNames()))
	case *guestv1.DownloadRequest:
		c.download(m.GetOpen())
	case *guestv1.UploadResponse: // the same message
		c.download(m.GetOpen())
	}
}

func (c *Call) download(o *guestv1.DownloadOpen) {
	var paths [][]byte
	for _, s := range o.GetSources() {
		paths = append(paths, s.GetPath())
	}
	c.file(o.GetSubject(), paths, nil)
}

func (c *Call) file(s *guestv1.Subject, reads, writes [][]byte) {
	c.Files, c.Subject = true, true
	c.User, c.Group = string(s.GetUser()), string(s.GetGroup())
	c.Reads, c.Writes = texts(reads), texts(writes)
}

func texts(b [][]byte) []string {
	out := make([]string, len(b))
	for i := range b {
		out[i] = string(b[i])
	}
	return out
}

// short returns "Service/Method" of a method.
func short(method string) string {
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	return service[strings.LastIndexByte(service, '.')+1:] + "/" + name
}
