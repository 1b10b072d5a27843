package policy

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/vsockrpc/vsockrpc/internal/declare"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestEveryLookCounts sets one field after the other of every request: one that a
// policy looks at, by its declaration, makes another call, and the others do not.
func TestEveryLookCounts(t *testing.T) {
	fields := 0
	for method, m := range declare.Methods() {
		mt, err := protoregistry.GlobalTypes.FindMessageByName(m.Input().FullName())
		if err != nil {
			t.Fatal(err)
		}
		root := mt.New()
		var visit func(at string, msg protoreflect.Message, decided bool)
		visit = func(at string, msg protoreflect.Message, decided bool) {
			for i := range msg.Descriptor().Fields().Len() {
				f := msg.Descriptor().Fields().Get(i)
				d := declare.Field(f)
				counts := decided && (d.GetOnly() == "" || d.GetOnly() == short(method))
				name := at + "." + string(f.Name())
				if d.GetLook() == guestv1.Look_LOOK_MEMBERS {
					if f.IsList() {
						visit(name, msg.Mutable(f).List().AppendMutable().Message(), counts)
					} else {
						visit(name, msg.Mutable(f).Message(), counts)
					}
					msg.Clear(f)
					continue
				}
				fields++
				looks := counts && !nothing[d.GetLook()]
				before := CallOf(method, root.Interface())
				fill(msg, f)
				after := CallOf(method, root.Interface())
				if changed := !cmp.Equal(before, after, cmp.AllowUnexported(Call{})); changed != looks && !needsOthers[d.GetLook()] {
					t.Errorf("%s%s (%v) set: another call is %t, want %t", method, name, d.GetLook(), changed, looks)
				}
				msg.Clear(f)
			}
		}
		visit("", root, true)
	}
	if fields < 100 {
		t.Errorf("%d fields", fields)
	}
}

// nothing are the looks that are decisions not to look.
var nothing = map[guestv1.Look]bool{
	guestv1.Look_LOOK_DATA: true, guestv1.Look_LOOK_FLOW: true, guestv1.Look_LOOK_IDENTITY: true, guestv1.Look_LOOK_DETAIL: true,
	guestv1.Look_LOOK_LESS: true, guestv1.Look_LOOK_METHOD: true, guestv1.Look_LOOK_BELOW: true, guestv1.Look_LOOK_LISTENED: true,
}

// needsOthers are looks that count only with a path, or a role, beside them.
// TestLooksTogether has them.
var needsOthers = map[guestv1.Look]bool{
	guestv1.Look_LOOK_READS: true, guestv1.Look_LOOK_RECURSIVE: true, guestv1.Look_LOOK_HARD_LINK: true, guestv1.Look_LOOK_CHANGES: true, guestv1.Look_LOOK_ROLE: true,
}

// fill sets a field to something.
func fill(m protoreflect.Message, f protoreflect.FieldDescriptor) {
	value := func() protoreflect.Value {
		switch f.Kind() {
		case protoreflect.BytesKind:
			return protoreflect.ValueOfBytes([]byte("/filled"))
		case protoreflect.StringKind:
			return protoreflect.ValueOfString("filled")
		case protoreflect.BoolKind:
			return protoreflect.ValueOfBool(true)
		case protoreflect.Uint32Kind:
			return protoreflect.ValueOfUint32(7)
		case protoreflect.Uint64Kind:
			return protoreflect.ValueOfUint64(7)
		case protoreflect.Int64Kind, protoreflect.Sint64Kind:
			return protoreflect.ValueOfInt64(7)
		case protoreflect.Sint32Kind:
			return protoreflect.ValueOfInt32(7)
		case protoreflect.EnumKind:
			return protoreflect.ValueOfEnum(1)
		}
		panic(fmt.Sprint("a field of kind ", f.Kind(), ": ", f.FullName()))
	}
	switch {
	case f.IsList() && f.Message() != nil:
		m.Mutable(f).List().AppendMutable()
	case f.IsList():
		m.Mutable(f).List().Append(value())
	case f.Message() != nil:
		m.Mutable(f)
	default:
		m.Set(f, value())
	}
}

// TestLooksTogether makes calls of whole requests, as they come.
func TestLooksTogether(t *testing.T) {
	b := func(s string) []byte { return []byte(s) }
	open := func(o *guestv1.OpenFile) proto.Message {
		o.Path = b("/f")
		return &guestv1.OpenRequest{Message: &guestv1.OpenRequest_Open{Open: o}}
	}
	attach := func(o *guestv1.Open) proto.Message {
		// As the agent receives Attach's.
		return &guestv1.ExecRequest{Message: &guestv1.ExecRequest_Open{Open: o}}
	}
	files := Call{Files: true, Subject: true}
	tests := []struct {
		name, method string
		req          proto.Message
		want         func(c *Call)
	}{
		{"rename has both paths", "FileService/Rename", &guestv1.RenameRequest{Path: b("/old"), NewPath: b("/new")},
			func(c *Call) { c.Writes, c.WritesBelow = []string{"/old", "/new"}, true }},
		{"download has all sources", "FileService/Download", &guestv1.DownloadRequest{Message: &guestv1.DownloadRequest_Open{Open: &guestv1.DownloadOpen{
			Subject: &guestv1.Subject{User: b("u"), Group: b("g")}, Sources: []*guestv1.Source{{Path: b("/a")}, {Path: b("/b")}}}}},
			func(c *Call) { c.User, c.Group, c.Reads, c.ReadsBelow = "u", "g", []string{"/a", "/b"}, true }},
		{"download as it is received", "FileService/Download", &guestv1.UploadResponse{Message: &guestv1.UploadResponse_Open{Open: &guestv1.DownloadOpen{
			Sources: []*guestv1.Source{{Path: b("/a")}, {Path: b("/b")}}}}},
			func(c *Call) { c.Reads, c.ReadsBelow = []string{"/a", "/b"}, true }},
		{"upload has its names", "FileService/Upload", &guestv1.UploadRequest{Message: &guestv1.UploadRequest_Open{Open: &guestv1.UploadOpen{
			Destination: b("/d"), Names: [][]byte{b("x"), nil, b("../y")}}}},
			func(c *Call) { c.Writes = []string{"/d", "/d/x", "/d/../y"} }},
		{"open to read", "FileService/Open", open(&guestv1.OpenFile{Read: true}), func(c *Call) { c.Reads, c.Reading = []string{"/f"}, true }},
		{"open for nothing", "FileService/Open", open(&guestv1.OpenFile{}), func(c *Call) { c.Reads, c.Reading = []string{"/f"}, true }},
		{"open to write", "FileService/Open", open(&guestv1.OpenFile{Write: true}), func(c *Call) { c.Writes = []string{"/f"} }},
		{"open to truncate and read", "FileService/Open", open(&guestv1.OpenFile{Read: true, Truncate: true}), func(c *Call) { c.Reads, c.Writes = []string{"/f"}, []string{"/f"} }},
		{"open to create", "FileService/Open", open(&guestv1.OpenFile{Create: true}), func(c *Call) { c.Writes = []string{"/f"} }},
		{"open to append", "FileService/Open", open(&guestv1.OpenFile{Append: true}), func(c *Call) { c.Writes = []string{"/f"} }},
		{"remove", "FileService/RemoveFile", &guestv1.RemoveFileRequest{Path: b("/f")}, func(c *Call) { c.Writes = []string{"/f"} }},
		{"remove recursively", "FileService/RemoveFile", &guestv1.RemoveFileRequest{Path: b("/f"), Recursive: true}, func(c *Call) { c.Writes, c.WritesBelow = []string{"/f"}, true }},
		{"list", "FileService/List", &guestv1.ListRequest{Path: b("/d")}, func(c *Call) { c.Reads, c.ReadsBelow = []string{"/d"}, true }},
		{"link", "FileService/MakeLink", &guestv1.MakeLinkRequest{Path: b("/d/l"), Target: b("../x")}, func(c *Call) { c.Writes = []string{"/d/l", "/x"} }},
		{"hard link", "FileService/MakeLink", &guestv1.MakeLinkRequest{Path: b("/d/l"), Target: b("x"), Hard: true}, func(c *Call) { c.Writes = []string{"/d/l", "x"} }},
		{"temporary file", "FileService/MakeTemporary", &guestv1.MakeTemporaryRequest{Pattern: b("x*")}, func(c *Call) { c.Writes = []string{"/tmp", "/tmp/x*"} }},
	}
	for _, tt := range tests {
		want := files
		want.Method = "/guest.v1." + tt.method
		tt.want(&want)
		if diff := cmp.Diff(want, CallOf(want.Method, tt.req), cmp.AllowUnexported(Call{})); diff != "" {
			t.Errorf("%s:\n%s", tt.name, diff)
		}
	}
	for name, tt := range map[string]struct {
		open *guestv1.Open
		want Call
	}{
		"observer": {&guestv1.Open{SessionId: b("s"), Role: guestv1.Role_ROLE_OBSERVER}, Call{SessionID: "s", Reading: true}},
		"owner":    {&guestv1.Open{SessionId: b("s"), Role: guestv1.Role_ROLE_OWNER}, Call{SessionID: "s"}},
		"no role":  {&guestv1.Open{Name: "n"}, Call{SessionName: "n"}},
		"taking":   {&guestv1.Open{Role: guestv1.Role_ROLE_OBSERVER, TakeOver: true}, Call{}},
		"a program, which attach ignores": {&guestv1.Open{Role: guestv1.Role_ROLE_OBSERVER, Spec: &guestv1.SessionSpec{Args: [][]byte{b("id")}}},
			Call{Reading: true}},
	} {
		tt.want.Method = guestv1.ProcessService_Attach_FullMethodName
		if diff := cmp.Diff(tt.want, CallOf(tt.want.Method, attach(tt.open)), cmp.AllowUnexported(Call{})); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
	start := CallOf(guestv1.ProcessService_Start_FullMethodName, &guestv1.StartRequest{SessionId: b("s"), Spec: &guestv1.SessionSpec{
		Args: [][]byte{b("a"), b("b")}, Env: [][]byte{b("LD_PRELOAD=/x"), b("TERM=y")}, ClearEnv: true, Dir: b("/w"), User: b("u"),
		Terminal: &guestv1.Terminal{Term: "z"}, Arg0: b("c"), LoginShell: true,
		Limits: &guestv1.ResourceLimits{MemoryBytes: proto.Uint64(1), Nice: proto.Int32(0), Umask: proto.Uint32(0), NoNewPrivileges: true,
			DropCapabilities: []string{"CAP_CHOWN"}, Rlimits: []*guestv1.Rlimit{{Name: "core"}, {Name: "fsize"}}},
	}})
	want := Call{Method: guestv1.ProcessService_Start_FullMethodName, SessionID: "s", Program: true, Subject: true, User: "u",
		Args: []string{"a", "b"}, Env: []string{"LD_PRELOAD=/x", "TERM=y", "TERM=z"}, ClearEnv: true, Dir: "/w", OwnName: true, LoginShell: true,
		Umask: proto.Uint32(0), Limits: []string{"memory", "core", "fsize", "nice", "no-new-privileges", "drop-capabilities"}}
	if diff := cmp.Diff(want, start, cmp.AllowUnexported(Call{})); diff != "" {
		t.Error(diff)
	}
}

// TestStrangeMessages: a message that is not the method's is not looked at, and
// Accept's first message is received as Dial's, which has an address where that has
// an id.
func TestStrangeMessages(t *testing.T) {
	for _, req := range []any{nil, 5, (*guestv1.StatRequest)(nil), &guestv1.InfoRequest{}, &guestv1.ErrorDetail{Reason: "x"}} {
		c := CallOf(guestv1.FileService_Read_FullMethodName, req)
		if _, isNil := req.(*guestv1.StatRequest); isNil {
			continue // the same members: nothing in it
		}
		if !c.Unseen || c.Files {
			t.Errorf("%T: %+v", req, c)
		}
	}
	c := CallOf(guestv1.ForwardService_Accept_FullMethodName, &guestv1.DialRequest{Message: &guestv1.DialRequest_Open{Open: &guestv1.DialOpen{Network: "tcp", Address: []byte("x:1")}}})
	if !c.Accept || !c.Listen || c.Dial || c.Network != "" || c.Address != "" || c.Unseen {
		t.Errorf("%+v", c)
	}
	p := mustParse(t, "[roles.a]\nkeys=['*']\nprofile='full'\n[[roles.a.deny]]\nread=['/etc/shadow']\n")
	if d := p.Decide(ci, CallOf(guestv1.FileService_Read_FullMethodName, nil), world); d.Allowed {
		t.Error("a call whose request was not seen passes a rule that denies")
	}
}

func BenchmarkCallOf(b *testing.B) {
	req := &guestv1.ExecRequest{Message: &guestv1.ExecRequest_Open{Open: &guestv1.Open{SessionId: make([]byte, 16), Role: guestv1.Role_ROLE_OWNER,
		Spec: &guestv1.SessionSpec{Args: [][]byte{[]byte("uname"), []byte("-a")}, Env: [][]byte{[]byte("TERM=x")}, User: []byte("root")}}}}
	b.ReportAllocs()
	for b.Loop() {
		CallOf(guestv1.ProcessService_Exec_FullMethodName, req)
	}
}
