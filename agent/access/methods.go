package access

import (
	"maps"
	"slices"
	"sync"

	"github.com/vsockrpc/vsockrpc/internal/declare"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// Class says what a method asks of its caller. Beyond Open and Reduced, only
// trusted callers are answered, and of them those whose roles allow it.
type Class int

const (
	// Trusted methods answer trusted callers who may do everything. Every
	// method that nobody has decided on is Trusted, as are the methods of
	// another program's services.
	Trusted Class = iota
	// Reduced methods answer everybody, and leave out what concerns the guest
	// if the caller is not trusted. They look at the Decision themselves.
	Reduced
	// Open methods answer everybody.
	Open
	// Facts methods tell about the guest and change nothing.
	Facts
	// Read methods read what users keep in the guest, and change nothing.
	Read
	// Use methods run, change or connect something.
	Use
	// Control methods say who may call and what they may do, or work on the
	// guest as a whole. They are the control face; all others are the user
	// face.
	Control
)

var classNames = [...]string{"trusted", "reduced", "open", "facts", "read", "use", "control"}

// String returns the class in lower case, such as "facts".
func (c Class) String() string {
	if c < 0 || int(c) >= len(classNames) {
		return "trusted"
	}
	return classNames[c]
}

// Anybody reports whether methods of the class answer callers who are not
// trusted.
func (c Class) Anybody() bool { return c == Open || c == Reduced }

// Changes reports whether a method of the class may change something.
func (c Class) Changes() bool { return c == Use || c == Control || c == Trusted }

// Profile is a set of classes with a name: what a caller may do who is given
// nothing finer.
type Profile string

// The profiles, each of which has what those before it have.
const (
	ProfileNone Profile = ""     // what anybody may
	ProfileInfo Profile = "info" // facts about the guest
	ProfileOps  Profile = "ops"  // the user face: processes, files, connections
	ProfileFull Profile = "full" // everything, the control face too
)

// ParseProfile parses info, ops or full.
func ParseProfile(s string) (Profile, bool) {
	switch p := Profile(s); p {
	case ProfileInfo, ProfileOps, ProfileFull:
		return p, true
	}
	return ProfileNone, false
}

// Has reports whether methods of a class are in the profile.
func (p Profile) Has(c Class) bool {
	switch c {
	case Open, Reduced:
		return true
	case Facts:
		return p == ProfileInfo || p == ProfileOps || p == ProfileFull
	case Read, Use:
		return p == ProfileOps || p == ProfileFull
	}
	return p == ProfileFull
}

// ClassOf returns the class of a method, named as gRPC does:
// "/package.Service/Method".
func ClassOf(fullMethod string) Class { return methods()[fullMethod] }

// methods holds the class of each method of the services that the agent has:
// of ours, as its .proto file declares it. It is made when it is first needed.
var methods = sync.OnceValue(func() map[string]Class {
	classes := map[string]Class{
		// Whether the agent is there and well is no secret from those who can
		// connect: doctor and wait need it.
		"/grpc.health.v1.Health/Check": Open,
		"/grpc.health.v1.Health/List":  Open,
		"/grpc.health.v1.Health/Watch": Open,

		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      Facts,
		"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Facts,
	}
	for name, m := range declare.Methods() {
		classes[name] = declared[declare.Of(m).GetClass()]
	}
	return classes
})

// declared translates the classes of the .proto files. What is not in it is
// Trusted.
var declared = map[guestv1.MethodClass]Class{
	guestv1.MethodClass_METHOD_CLASS_REDUCED: Reduced,
	guestv1.MethodClass_METHOD_CLASS_OPEN:    Open,
	guestv1.MethodClass_METHOD_CLASS_FACTS:   Facts,
	guestv1.MethodClass_METHOD_CLASS_READ:    Read,
	guestv1.MethodClass_METHOD_CLASS_USE:     Use,
	guestv1.MethodClass_METHOD_CLASS_CONTROL: Control,
}

// Methods returns the methods that the agent's own services have, in no order,
// named as gRPC does.
func Methods() []string { return slices.Collect(maps.Keys(methods())) }

// Decided reports whether the class of a method is a decision, not the default.
func Decided(fullMethod string) bool {
	_, ok := methods()[fullMethod]
	return ok
}
