package system

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fadt makes a FADT with the fields that matter.
func fadt(oem, hypervisor string) []byte {
	b := make([]byte, 276)
	copy(b, "FACP")
	copy(b[10:16], oem)
	copy(b[268:276], hypervisor)
	return b
}

func TestReadVMM(t *testing.T) {
	tests := []struct {
		name  string
		table []byte // nil: no such file
		want  VMM
	}{
		{"Firecracker", fadt("FIRECK", "FIRECKVM"), Firecracker},
		{"Cloud Hypervisor", fadt("CLOUDH", "CLOUDHYP"), CloudHypervisor},
		{"longer than today", append(fadt("CLOUDH", "CLOUDHYP"), 1, 2, 3), CloudHypervisor},
		{"QEMU", fadt("BOCHS ", "QEMU\x00\x00\x00\x00"), UnknownVMM},
		{"QEMU with another's OEM id", fadt("FIRECK", "QEMU\x00\x00\x00\x00"), UnknownVMM},
		{"OEM id of one, identity of the other", fadt("FIRECK", "CLOUDHYP"), UnknownVMM},
		{"identity alone", fadt("", "FIRECKVM"), UnknownVMM},
		{"no names", fadt("", ""), UnknownVMM},
		{"too short", fadt("FIRECK", "FIRECKVM")[:275], UnknownVMM},
		{"another table", append([]byte("DSDT"), fadt("FIRECK", "FIRECKVM")[4:]...), UnknownVMM},
		{"empty", []byte{}, UnknownVMM},
		{"no table", nil, UnknownVMM},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			if tt.table != nil {
				path := filepath.Join(root, fadtPath)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, tt.table, 0o400); err != nil {
					t.Fatal(err)
				}
			}
			if got := ReadVMM(root); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestParseKernelArgs(t *testing.T) {
	tests := []struct {
		line string
		want []KernelArg
	}{
		{"", nil},
		{" \n", nil},
		{"quiet console=ttyS0 guest-agent.peer=host\n", []KernelArg{{"quiet", ""}, {"console", "ttyS0"}, {"guest-agent.peer", "host"}}},
		{`a="b c" "d=e f" g=h"i j"k`, []KernelArg{{"a", "b c"}, {"d", "e f"}, {"g", `h"i j"k`}}},
		{"a=b=c d= =e", []KernelArg{{"a", "b=c"}, {"d", ""}, {"", "e"}}},
		{"a -- guest-agent.peer=host", []KernelArg{{"a", ""}}},
		{`a="open quote b`, []KernelArg{{"a", "open quote b"}}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, ParseKernelArgs(tt.line)); diff != "" {
			t.Errorf("%q (-want +got)\n%s", tt.line, diff)
		}
	}
}

func TestKernelArgs(t *testing.T) {
	root := t.TempDir()
	if got := KernelArgs(root); got != nil {
		t.Errorf("without /proc: %v", got)
	}
	if err := os.Mkdir(filepath.Join(root, "proc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "proc/cmdline"), []byte("a=b\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]KernelArg{{"a", "b"}}, KernelArgs(root)); diff != "" {
		t.Error(diff)
	}
}
