// Package transport moves bytes between a host and its virtual machines. It
// knows no messages: it dials, listens, names addresses, says who the peer is
// and why something failed, and plugs into stock grpc-go.
//
// Three kinds of address are supported, each an [Addr] and each with one
// spelling ([ParseAddr]):
//
//	vsock:CID:PORT          native AF_VSOCK (Linux only)
//	vsock-mux:/path:PORT    the Unix socket of a user-space VMM (Firecracker,
//	                        Cloud Hypervisor, vhost-device-vsock), which takes
//	                        "CONNECT PORT\n" and answers "OK N\n"
//	unix:/path              a plain Unix socket (libkrun, vfkit, tests)
//
// [Dial] and [Listen] mean what the methods of the same names of net.Dialer
// and net.ListenConfig mean. Connections are [*Conn], a net.Conn that can also
// be closed one way, writes several buffers in one system call and knows its
// [Peer]. The package reports the peer and decides nothing: whether CID 3 or
// uid 1000 may call is the business of the program that listens.
//
// Every failure to dial or to listen is an [*Error] with a [Kind]. The error
// values of this package (ErrNoSuchCID and so on) work with errors.Is.
//
// # Delivery
//
// A successful Write says only that the kernel took the bytes. An end of file
// says only that no more bytes will come: the kernel reports a connection that
// was reset by the other side of an AF_VSOCK socket (guest killed, snapshot
// restored) either as an error or as the end of the data, so a protocol over
// this package must mark the end of its own messages. AF_VSOCK has no
// keepalive; a peer that went silent is found only by asking it something.
package transport
