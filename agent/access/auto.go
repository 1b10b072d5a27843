package access

import "github.com/vsockrpc/vsockrpc/internal/system"

// Resolve turns ModeAuto into the mode that is right for guests of vmm, and
// says why, for a log. Other modes stay as they are.
//
// It is ModeHost for those VMMs that implement vsock in user space and only
// there: the host's end is always a Unix socket that the VMM makes. QEMU can
// do both and is told apart from them; of other VMMs nothing is known, so that
// they need --peer=host.
func (m Mode) Resolve(vmm system.VMM) (Mode, string) {
	if m != ModeAuto {
		return m, "set"
	}
	switch vmm {
	case system.Firecracker, system.CloudHypervisor:
		return ModeHost, "the firmware tables name " + string(vmm) + ", whose vsock is always a Unix socket on the host"
	}
	return ModeHostRoot, "the firmware tables name no VMM whose vsock is always a Unix socket on the host"
}
