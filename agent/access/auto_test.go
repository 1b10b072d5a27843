package access

import (
	"testing"

	"github.com/vsockrpc/vsockrpc/internal/system"
)

func TestResolve(t *testing.T) {
	tests := []struct {
		mode Mode
		vmm  system.VMM
		want Mode
	}{
		{ModeAuto, system.Firecracker, ModeHost},
		{ModeAuto, system.CloudHypervisor, ModeHost},
		{ModeAuto, system.UnknownVMM, ModeHostRoot},
		{ModeAuto, "QEMU", ModeHostRoot},
		{ModeHostRoot, system.Firecracker, ModeHostRoot},
		{ModeHost, system.UnknownVMM, ModeHost},
		{ModeEmbedded, system.UnknownVMM, ModeEmbedded},
		{"", system.Firecracker, ""},
	}
	for _, tt := range tests {
		got, why := tt.mode.Resolve(tt.vmm)
		if got != tt.want || why == "" {
			t.Errorf("%q with %q: got %q (%s), want %q", tt.mode, tt.vmm, got, why, tt.want)
		}
	}
}
