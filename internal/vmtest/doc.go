// Package vmtest is the real-kernel lab: it boots Linux kernels in which tests
// may use native AF_VSOCK, on any machine, with neither KVM nor a second one.
//
// There are two labs, described in docs/lab.md:
//
//   - the UML lab ([UML]) runs test binaries under User-mode Linux: real
//     AF_VSOCK over the loopback transport (CID 1), in a few seconds;
//   - the nested lab ([Nested]) runs a test binary in an outer kernel that has
//     vhost_vsock, as host (CID 2), and that test boots inner guests (CID 3).
//
// A test that needs native vsock skips unless the environment variable
// VSOCKRPC_LAB names the lab it runs in ("uml" or "nested"): outside a kernel
// that the lab booted, a vsock dial may leave the machine. The lab finds the
// packages to run by that name in their test files.
//
// The program lab runs both; labinit is the init of the kernels they boot.
package vmtest
