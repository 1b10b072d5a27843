// Package rpc carries gRPC calls over one connection, on a wire of its own.
//
// A [Server] is a grpc.ServiceRegistrar and a [Client] a
// grpc.ClientConnInterface, so the stubs that protoc-gen-go-grpc generates work
// on both without a change, with unary calls and streams of every kind. What a
// service does is the same on either of the two wires that a server speaks on
// one port: the native wire, specified in PROTOCOL.md, and stock gRPC over
// HTTP/2, for clients in any language.
//
// The package knows nothing about virtual machines: it takes any net.Conn. A
// connection may have the method
//
//	AuthInfo() credentials.AuthInfo
//
// and then handlers find that value in peer.FromContext(ctx).AuthInfo, under
// TLS as the Transport field of an [AuthInfo].
//
// # Messages without copies
//
// A message that is mostly one bytes field can implement [BytesMessage]: it is
// then sent from where it lies and received into a recycled buffer. On the wire
// it is the protobuf message that it stands for, so that either side may use
// the generated type instead.
//
// A generated message of 16 KiB and more that is mostly one bytes field is sent from
// where it lies as well, and is its caller's again when SendMsg or Invoke has returned.
// Received generated messages are decoded into memory of their own.
//
// # What ends a call
//
// An error that comes from the peer and one that was made up locally look the
// same, as gRPC demands. A call that may
// have reached a handler is never repeated by this package.
package rpc
