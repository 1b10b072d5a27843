package system

import (
	"path/filepath"
)

// VMM is a virtual machine monitor that the firmware tables name.
type VMM string

const (
	// UnknownVMM is any other, or none that could be read.
	UnknownVMM      VMM = ""
	Firecracker     VMM = "Firecracker"
	CloudHypervisor VMM = "Cloud Hypervisor"
)

// fadtPath is where Linux shows the FADT, to root only.
const fadtPath = "sys/firmware/acpi/tables/FACP"

// ReadVMM returns the VMM that runs the machine whose file system root is
// given, usually "/". It goes by the ACPI tables, which the VMM writes and the
// guest's users cannot change.
//
// Firecracker names itself since v1.8 on x86-64 (src/vmm/src/acpi/mod.rs),
// Cloud Hypervisor on all architectures (vmm/src/acpi.rs). On arm64 Firecracker
// gives its guests a device tree that does not tell.
func ReadVMM(root string) VMM {
	return vmmOf(readFile(filepath.Join(root, fadtPath)))
}

// vmmOf looks at a FADT (ACPI 6.5, section 5.2.9). The OEM id is in every
// table; "Hypervisor Vendor Identity" is for just this. QEMU, whose OEM id can
// be set to anything, has "QEMU" there.
func vmmOf(fadt []byte) VMM {
	const oemStart, oemEnd, hypervisorStart, hypervisorEnd = 10, 16, 268, 276
	if len(fadt) < hypervisorEnd || string(fadt[:4]) != "FACP" {
		return UnknownVMM
	}
	switch string(fadt[oemStart:oemEnd]) + "/" + string(fadt[hypervisorStart:hypervisorEnd]) {
	case "FIRECK/FIRECKVM":
		return Firecracker
	case "CLOUDH/CLOUDHYP":
		return CloudHypervisor
	}
	return UnknownVMM
}
