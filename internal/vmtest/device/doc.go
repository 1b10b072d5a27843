// Package device holds the tests of guests whose vsock device is package
// vsockdev: User-mode Linux and QEMU, on this machine, as an ordinary user.
// Package vmtest runs them; see docs/lab.md.
//
// They dial no native vsock: the guest's own kernel does, inside.
package device
