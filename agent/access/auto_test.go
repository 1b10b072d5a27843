package access

import "testing"

func TestResolve(t *testing.T) {
	tests := []struct {
		mode Mode
		vmm  string
		want Mode
	}{
		{ModeAuto, VMMFirecracker, ModeHost},
		{ModeAuto, VMMCloudHypervisor, ModeHost},
		{ModeAuto, "", ModeHostRoot},
		{ModeAuto, "QEMU", ModeHostRoot},
		{ModeHostRoot, VMMFirecracker, ModeHostRoot},
		{ModeHost, "", ModeHost},
		{ModeEmbedded, "", ModeEmbedded},
		{"", VMMFirecracker, ""},
	}
	for _, tt := range tests {
		got, why := tt.mode.Resolve(tt.vmm)
		if got != tt.want || why == "" {
			t.Errorf("%q with %q: got %q (%s), want %q", tt.mode, tt.vmm, got, why, tt.want)
		}
	}
}
