package access

import (
	"os"
	"path/filepath"
	"testing"
)

// fadt makes a FADT with the fields that matter.
func fadt(oem, hypervisor string) []byte {
	b := make([]byte, 276)
	copy(b, "FACP")
	copy(b[10:16], oem)
	copy(b[268:276], hypervisor)
	return b
}

func TestDetect(t *testing.T) {
	tests := []struct {
		name  string
		table []byte // nil: no such file
		want  Mode
	}{
		{"Firecracker", fadt("FIRECK", "FIRECKVM"), ModeHost},
		{"Cloud Hypervisor", fadt("CLOUDH", "CLOUDHYP"), ModeHost},
		{"QEMU", fadt("BOCHS ", "QEMU\x00\x00\x00\x00"), ModeHostRoot},
		{"QEMU with another's OEM id", fadt("FIRECK", "QEMU\x00\x00\x00\x00"), ModeHostRoot},
		{"OEM id of the one, identity of the other", fadt("FIRECK", "CLOUDHYP"), ModeHostRoot},
		{"identity alone", fadt("", "FIRECKVM"), ModeHostRoot},
		{"empty identities", fadt("", ""), ModeHostRoot},
		{"too short", fadt("FIRECK", "FIRECKVM")[:275], ModeHostRoot},
		{"another table", append([]byte("DSDT"), fadt("FIRECK", "FIRECKVM")[4:]...), ModeHostRoot},
		{"empty", []byte{}, ModeHostRoot},
		{"no table", nil, ModeHostRoot},
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
			got, why := Detect(root)
			if got != tt.want {
				t.Errorf("got %s (%s), want %s", got, why, tt.want)
			}
			if why == "" {
				t.Error("no reason")
			}
		})
	}
}
