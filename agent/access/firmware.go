package access

import (
	"fmt"
	"os"
	"path/filepath"
)

// A userVMM is a VMM that implements vsock in user space and only there: the
// host's end is always a Unix socket that the VMM makes.
type userVMM struct {
	name  string
	oemID string // bytes 10 to 15 of each ACPI table
	hvID  string // "Hypervisor Vendor Identity", bytes 268 to 275 of the FADT
}

// Firecracker: src/vmm/src/acpi/mod.rs, since v1.8, x86-64. Cloud Hypervisor:
// vmm/src/acpi.rs, all architectures. QEMU, which can do both, says "QEMU" in
// the FADT. A VMM that says nothing (Firecracker on arm64, libkrun) cannot be
// told from others and needs --peer=host.
var userVMMs = []userVMM{
	{"Firecracker", "FIRECK", "FIRECKVM"},
	{"Cloud Hypervisor", "CLOUDH", "CLOUDHYP"},
}

// fadtPath is where Linux shows the FADT, below the root, to root only.
const fadtPath = "sys/firmware/acpi/tables/FACP"

// Detect resolves ModeAuto for the machine whose file system root is given,
// usually "/". It returns ModeHost if the firmware tables say that the VMM's
// vsock is always a Unix socket, ModeHostRoot otherwise, and why, for a log.
func Detect(root string) (Mode, string) {
	table, err := os.ReadFile(filepath.Join(root, fadtPath))
	if err != nil {
		return ModeHostRoot, fmt.Sprintf("no firmware table tells the VMM: %v", err)
	}
	return detect(table)
}

// detect looks at a FADT (ACPI 6.5, section 5.2.9).
func detect(fadt []byte) (Mode, string) {
	const oemStart, oemEnd, hvStart, hvEnd = 10, 16, 268, 276
	if len(fadt) < hvEnd || string(fadt[:4]) != "FACP" {
		return ModeHostRoot, "the firmware tables do not name the VMM"
	}
	for _, vmm := range userVMMs {
		if string(fadt[oemStart:oemEnd]) == vmm.oemID && string(fadt[hvStart:hvEnd]) == vmm.hvID {
			return ModeHost, "the firmware tables name " + vmm.name + ", whose vsock is always a Unix socket on the host"
		}
	}
	return ModeHostRoot, "the firmware tables do not name a VMM whose vsock is always a Unix socket on the host"
}
