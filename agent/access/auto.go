package access

import "github.com/vsockrpc/vsockrpc/internal/system"

// The VMMs that Resolve knows, as it wants them named.
const (
	VMMFirecracker     = string(system.Firecracker)
	VMMCloudHypervisor = string(system.CloudHypervisor)
)

// Resolve turns ModeAuto into the mode that is right for guests of vmm, one of the
// constants or empty if it is another or not known, and says why, for a log. Other
// modes stay as they are.
//
// It is ModeHost for those VMMs that implement vsock in user space and only
// there: the host's end is always a Unix socket that the VMM makes. QEMU can
// do both and is told apart from them; of other VMMs nothing is known, so that
// they need --peer=host.
func (m Mode) Resolve(vmm string) (Mode, string) {
	if m != ModeAuto {
		return m, "set"
	}
	switch vmm {
	case VMMFirecracker, VMMCloudHypervisor:
		return ModeHost, "the firmware tables name " + vmm + ", whose vsock is always a Unix socket on the host"
	}
	return ModeHostRoot, "the firmware tables name no VMM whose vsock is always a Unix socket on the host"
}
