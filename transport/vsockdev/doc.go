// Package vsockdev is a virtio-vsock device in user space: a vhost-user back
// end that gives a VM of QEMU, User-mode Linux or another VMM that speaks
// vhost-user the vsock of VIRTIO 1.2, section 5.10. It needs no kernel module, no root, no KVM, and no CID that
// is free on this machine: each device is a world of its own, in which the host
// has CID 2 and the VM the one that it is given.
//
//	dev, err := vsockdev.New(vsockdev.Config{CID: 3})
//	l, err := net.Listen("unix", "/run/vm1/vhost.sock")
//	go dev.Serve(l)                           // then start the VM
//	conn, err := dev.DialContext(ctx, 1000)   // to the guest
//	in, err := dev.Listen(2000)               // from the guest
//
// [Device.ServeMux] and [MuxDialer] offer the same two directions as Unix
// sockets, the way Firecracker does, for programs outside of this process.
//
// The guest is hostile: everything that it says is checked after it was
// copied, what it can make the device hold is bounded (see [Config]), and
// nothing outside its memory is read or written. A front end that breaks the
// protocol ends its own session only.
//
// Linux only, on little-endian machines; elsewhere the package is empty.
package vsockdev
