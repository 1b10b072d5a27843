// Package declare reads what the .proto files of guest.v1 declare about methods
// and about the fields of their requests; options.proto has the vocabulary.
package declare

import (
	"iter"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// Methods yields every method of guest.v1, named as gRPC does
// ("/package.Service/Method"), in no order.
func Methods() iter.Seq2[string, protoreflect.MethodDescriptor] {
	return func(yield func(string, protoreflect.MethodDescriptor) bool) {
		protoregistry.GlobalFiles.RangeFilesByPackage("guest.v1", func(f protoreflect.FileDescriptor) bool {
			for i := range f.Services().Len() {
				service := f.Services().Get(i)
				for j := range service.Methods().Len() {
					m := service.Methods().Get(j)
					if !yield("/"+string(service.FullName())+"/"+string(m.Name()), m) {
						return false
					}
				}
			}
			return true
		})
	}
}

// Method returns the declaration of a method, named as gRPC does; nil if there
// is none, or no such method.
func Method(name string) *guestv1.MethodDeclaration {
	service, method, ok := strings.Cut(strings.TrimPrefix(name, "/"), "/")
	if !ok {
		return nil
	}
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return nil
	}
	s, ok := d.(protoreflect.ServiceDescriptor)
	if !ok {
		return nil
	}
	m := s.Methods().ByName(protoreflect.Name(method))
	if m == nil {
		return nil
	}
	return Of(m)
}

// Of returns the declaration of a method, nil if it has none.
func Of(m protoreflect.MethodDescriptor) *guestv1.MethodDeclaration {
	d, _ := proto.GetExtension(m.Options(), guestv1.E_Method).(*guestv1.MethodDeclaration)
	return d
}

// Field returns the declaration of a field; without one its Look is
// LOOK_UNSPECIFIED.
func Field(f protoreflect.FieldDescriptor) *guestv1.FieldDeclaration {
	d, _ := proto.GetExtension(f.Options(), guestv1.E_Field).(*guestv1.FieldDeclaration)
	return d
}
