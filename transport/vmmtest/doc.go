// Package vmmtest simulates a VMM whose vsock is a Unix socket with a CONNECT
// line, as that of Firecracker and Cloud Hypervisor is, with nothing but Go: no
// virtual machine, no kernel module, no privilege. It is to programs that talk
// to guests what net/http/httptest is to programs that talk HTTP, and it fails
// on command in all the ways in which such a connection fails.
//
// The host's side is real: [VMM.Addr] returns a vsock-mux address which
// transport.Dial, transport.NewGRPCClient and every other client of such a
// socket can dial, and what the guest dials arrives at the Unix socket
// "<path>_<port>", where transport.Listen takes it. The guest's side is in the
// process of the test: [VMM.Listen] and [VMM.Dial] give it connections that
// show what a guest sees, peer CID 2 and a port from 2^30 on. Or the guest's
// side is a process with a Unix socket, which [VMM.Forward] connects.
//
//	vmm := vmmtest.New(t)
//	l, err := vmm.Listen(1000)              // in the guest
//	go server.Serve(l)
//	cc, err := transport.NewGRPCClient(vmm.Addr(1000)) // on the host
//	vmm.Reset()                             // as if restored from a snapshot
//
// # What is simulated
//
// Facts are from Firecracker's docs/vsock.md and
// src/vmm/src/devices/virtio/vsock (unix/muxer.rs, csm/connection.rs), and from
// Linux's net/vmw_vsock.
//
//   - A host connects to [VMM.Path] and sends "CONNECT <port>\n", at most 32
//     bytes, the word in any case. The answer "OK <n>\n" comes when the guest
//     has accepted, which its kernel does by itself as long as the listener's
//     backlog has room. n is taken from [2^30, 2^31) in turn. A refusal is the
//     end of the connection, without a word.
//   - At most 1023 connections; the next is accepted and closed.
//   - A guest that is paused answers nothing. A request that it does not
//     answer within 2 s is refused.
//   - A restore from a snapshot resets all connections and keeps the listeners.
//   - The guest's receive buffer of a connection holds 256 KiB, the VMM's 64
//     KiB.
//
// Three things are kinder than Firecracker is. The line may arrive in several
// pieces, for which Firecracker refuses it. A line without a line feed in its
// first 32 bytes is refused instead of being cut there. And a half-close is
// carried both ways: Firecracker turns that of the host into a full close, so
// that the guest's answer is lost, and does not show that of the guest to the
// host at all; Faults.NoHalfClose does the same.
//
// # Resets
//
// To the guest's side a reset is ECONNRESET, after the bytes that had arrived.
// A Unix socket has no reset, and SO_LINGER does nothing there. But on Linux,
// closing one while its own receive queue holds unread bytes gives the peer
// ECONNRESET, once, after the bytes in the peer's queue; later reads give EOF
// and writes EPIPE. So on Linux the VMM reads ahead (SO_PEEK_OFF) and leaves the
// last byte that it has passed on in the queue, beginning with the line feed of
// CONNECT, and takes it out before an orderly close. A connection that the
// other side accepted (the host's, when the guest dialed; an agent's behind
// Forward) can show a reset only once that side has sent a byte. Otherwise, and
// on other systems, a reset may look like an end of file, as it may with a real
// VMM.
package vmmtest
