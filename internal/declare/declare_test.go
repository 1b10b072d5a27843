package declare

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestEveryMethodIsDeclared: a new method needs a class, a feature and the
// version that has it first.
func TestEveryMethodIsDeclared(t *testing.T) {
	n := 0
	for name := range Methods() {
		n++
		d := Method(name)
		if d.GetClass() == guestv1.MethodClass_METHOD_CLASS_UNSPECIFIED || d.GetFeature() == "" || d.GetSince() == 0 {
			t.Errorf("%s: declared as %v: give its class, feature and since", name, d)
		}
	}
	if n < 30 {
		t.Errorf("%d methods", n)
	}
	for _, name := range []string{"", "/", "/guest.v1.ProcessService", "/guest.v1.ProcessService/exec", "/guest.v1.Open/Exec", "/other.v1.X/Y"} {
		if d := Method(name); d != nil {
			t.Errorf("%q: %v", name, d)
		}
	}
}

// TestEveryFieldIsDecided walks every message that a caller sends, as far as its
// members count: somebody has to decide what a policy makes of a new field, even
// if that is nothing.
func TestEveryFieldIsDecided(t *testing.T) {
	seen := make(map[protoreflect.FullName]bool)
	var walk func(method string, m protoreflect.MessageDescriptor)
	walk = func(method string, m protoreflect.MessageDescriptor) {
		if seen[m.FullName()] {
			return
		}
		seen[m.FullName()] = true
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			d := Field(f)
			switch d.GetLook() {
			case guestv1.Look_LOOK_UNSPECIFIED:
				t.Errorf("%s (of %s): no rule decides on this field: give it a look", f.FullName(), method)
			case guestv1.Look_LOOK_MEMBERS:
				if f.Message() == nil {
					t.Errorf("%s: LOOK_MEMBERS, but it is no message", f.FullName())
					continue
				}
				walk(method, f.Message())
			}
			if kinds := kindsOf[d.GetLook()]; len(kinds) > 0 && !slices.Contains(kinds, f.Kind()) {
				t.Errorf("%s: %v does not go with %v", f.FullName(), d.GetLook(), f.Kind())
			}
			if only := d.GetOnly(); only != "" && Method("/guest.v1."+only) == nil {
				t.Errorf("%s: there is no method %s", f.FullName(), only)
			}
		}
	}
	for name, m := range Methods() {
		walk(name, m.Input())
	}
	for _, want := range []protoreflect.FullName{"guest.v1.Open", "guest.v1.SessionSpec", "guest.v1.Rlimit", "guest.v1.Subject", "guest.v1.Source", "guest.v1.DialOpen"} {
		if !seen[want] {
			t.Errorf("%s was not walked", want)
		}
	}
}

// kindsOf says which kinds of fields a look can be read from.
var kindsOf = map[guestv1.Look][]protoreflect.Kind{
	guestv1.Look_LOOK_USER:            {protoreflect.BytesKind},
	guestv1.Look_LOOK_GROUP:           {protoreflect.BytesKind},
	guestv1.Look_LOOK_READ:            {protoreflect.BytesKind},
	guestv1.Look_LOOK_WRITE:           {protoreflect.BytesKind},
	guestv1.Look_LOOK_READ_TREE:       {protoreflect.BytesKind},
	guestv1.Look_LOOK_WRITE_TREE:      {protoreflect.BytesKind},
	guestv1.Look_LOOK_READ_OR_WRITE:   {protoreflect.BytesKind},
	guestv1.Look_LOOK_NAMES:           {protoreflect.BytesKind},
	guestv1.Look_LOOK_LINK_TARGET:     {protoreflect.BytesKind},
	guestv1.Look_LOOK_ARGUMENTS:       {protoreflect.BytesKind},
	guestv1.Look_LOOK_ENVIRONMENT:     {protoreflect.BytesKind},
	guestv1.Look_LOOK_DIRECTORY:       {protoreflect.BytesKind},
	guestv1.Look_LOOK_SESSION_ID:      {protoreflect.BytesKind},
	guestv1.Look_LOOK_CONNECT_ADDRESS: {protoreflect.BytesKind},
	guestv1.Look_LOOK_LISTEN_ADDRESS:  {protoreflect.BytesKind},
	guestv1.Look_LOOK_TERM:            {protoreflect.StringKind},
	guestv1.Look_LOOK_SESSION_NAME:    {protoreflect.StringKind},
	guestv1.Look_LOOK_NETWORK:         {protoreflect.StringKind},
	guestv1.Look_LOOK_LIMIT_NAME:      {protoreflect.StringKind},
	guestv1.Look_LOOK_UMASK:           {protoreflect.Uint32Kind},
	guestv1.Look_LOOK_ROLE:            {protoreflect.EnumKind},
}
