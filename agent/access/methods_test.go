package access

import (
	"strings"
	"testing"

	_ "google.golang.org/grpc/health/grpc_health_v1"
	_ "google.golang.org/grpc/reflection/grpc_reflection_v1"
	_ "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestEveryMethodIsDecided goes through the descriptors: a method that is new
// in the proto files fails here until somebody decides who may call it.
func TestEveryMethodIsDecided(t *testing.T) {
	described := make(map[string]bool)
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			service := f.Services().Get(i)
			for j := range service.Methods().Len() {
				name := "/" + string(service.FullName()) + "/" + string(service.Methods().Get(j).Name())
				described[name] = true
				if class, ok := methods()[name]; !ok || class == Trusted {
					t.Errorf("nobody has decided who may call %s: declare its class in its .proto file", name)
				}
			}
		}
		return true
	})
	if len(described) == 0 {
		t.Fatal("no services found")
	}
	for name := range methods() {
		if !described[name] {
			t.Errorf("%s is decided, but there is no such method", name)
		}
	}
}

// TestOpenMethods names the only methods that answer just anybody. Who adds
// one changes the threat model, and this test.
func TestOpenMethods(t *testing.T) {
	for name, class := range methods() {
		var want Class
		switch {
		case strings.HasPrefix(name, "/grpc.health.v1.Health/"):
			want = Open
		case name == "/guest.v1.AgentService/Info":
			want = Reduced
		}
		if class.Anybody() != want.Anybody() || want != Trusted && class != want {
			t.Errorf("%s is %v, want %v", name, class, want)
		}
	}
}

func TestUnknownMethodsNeedTrust(t *testing.T) {
	for _, name := range []string{
		"", "/", "/guest.v1.AgentService/", "/guest.v1.AgentService/info", "guest.v1.AgentService/Info",
		"/guest.v1.AgentService/Info/", "/grpc.health.v1.Health/Check2", "/other.Service/Method",
	} {
		if c := ClassOf(name); c != Trusted {
			t.Errorf("%q is %v", name, c)
		}
	}
}

// TestTwoFaces: no method of a service on the control face is in a profile of
// the user face, and but for facts a service is on one face only.
func TestTwoFaces(t *testing.T) {
	faces := make(map[string]bool)
	for name, class := range methods() {
		if class == Facts {
			continue // they are on both
		}
		service, _, _ := strings.Cut(name[1:], "/")
		control := class == Control
		if other, ok := faces[service]; ok && other != control {
			t.Errorf("%s: one service, both faces", name)
		}
		faces[service] = control
		for _, p := range []Profile{ProfileNone, ProfileInfo, ProfileOps} {
			if control && p.Has(class) {
				t.Errorf("%s is on the control face, but in profile %q", name, p)
			}
		}
		if !ProfileFull.Has(class) {
			t.Errorf("%s is not in profile full", name)
		}
	}
	if !faces["guest.v1.ControlService"] || faces["guest.v1.ProcessService"] {
		t.Errorf("faces: %v", faces)
	}
}

func TestProfiles(t *testing.T) {
	classes := []Class{Open, Reduced, Facts, Read, Use, Control, Trusted, Class(99)}
	for profile, n := range map[Profile]int{ProfileNone: 2, ProfileInfo: 3, ProfileOps: 5, ProfileFull: 8, "other": 2} {
		for i, c := range classes {
			if got := profile.Has(c); got != (i < n) {
				t.Errorf("profile %q has %v: %t", profile, c, got)
			}
		}
		if _, ok := ParseProfile(string(profile)); ok != (n > 2) {
			t.Errorf("ParseProfile(%q): %t", profile, ok)
		}
	}
}

// TestClasses pins the classes that rules about reading hang on: who changes one
// in a .proto file changes what read-only callers may do, and this test.
func TestClasses(t *testing.T) {
	for name, want := range map[string]Class{
		"ProcessService/Accept":       Trusted, // there is none
		"ForwardService/Dial":         Use,
		"ForwardService/Listen":       Use,
		"ForwardService/Accept":       Use,
		"ProcessService/Exec":         Use,
		"ProcessService/Attach":       Use,
		"ProcessService/Start":        Use,
		"ProcessService/Signal":       Use,
		"ProcessService/Wait":         Read,
		"ProcessService/Remove":       Use,
		"FileService/MakeDirectory":   Use,
		"FileService/RemoveFile":      Use,
		"FileService/Rename":          Use,
		"FileService/SetAttributes":   Use,
		"FileService/MakeLink":        Use,
		"FileService/MakeTemporary":   Use,
		"FileService/SetXattr":        Use,
		"FileService/Open":            Use,
		"FileService/Upload":          Use,
		"FileService/Download":        Read,
		"FileService/DiskFree":        Facts,
		"AccessService/Explain":       Facts,
		"ClockService/ReadClock":      Facts,
		"ClockService/SetClock":       Control,
		"ClockService/AdjustClock":    Control,
		"ControlService/AddHostKey":   Control,
		"ControlService/GetPolicy":    Control,
		"ControlService/ListHostKeys": Control,
	} {
		got := ClassOf("/guest.v1." + name)
		if got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
		if changes := want == Use || want == Control || want == Trusted; got.Changes() != changes {
			t.Errorf("%s: Changes is %t, want %t", name, got.Changes(), changes)
		}
	}
	if !ClassOf("/other.v1.X/Y").Changes() {
		t.Error("a method that nobody has decided on counts as one that changes nothing")
	}
}
