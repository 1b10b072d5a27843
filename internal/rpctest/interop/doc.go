// Package interop runs gRPC's interoperability tests against rpc.Server and
// rpc.Client. It is a module of its own because the tests of google.golang.org/grpc
// need modules that nothing else here does.
package interop
