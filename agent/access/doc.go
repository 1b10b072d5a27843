// Package access decides who may call the agent, from what the kernel says
// about the other end of a connection, and what a method asks of its caller.
//
// It is policy and nothing else: pure functions over values of
// [transport.Peer] and over names of methods. Package agent applies them to
// every call, in one place.
//
// Without any configuration the rules are:
//
//   - vsock: only the host (CID 2) reaches the agent at all, and there only
//     root is trusted, which a source port below 1024 shows, since any user of
//     the host can dial any guest. Behind a VMM that carries vsock over a Unix
//     socket of its own (Firecracker, Cloud Hypervisor) no such port ever
//     arrives; there the permissions of that socket are the access control and
//     the rule has to be [ModeHost].
//   - unix: the agent's own user and root are trusted.
//   - Anything else is not.
//
// A caller that is not trusted still gets the answers of methods of class
// [Open], and those of class [Reduced] without what concerns the guest.
package access
