//go:build linux

package system

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseOSRelease(t *testing.T) {
	tests := []struct {
		name string
		text string
		want OSRelease
	}{
		{"Debian", "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nID=debian\n",
			OSRelease{"debian", "12", "Debian GNU/Linux 12 (bookworm)"}},
		{"no version, as Arch", "ID=arch\nPRETTY_NAME='Arch Linux'\n", OSRelease{"arch", "", "Arch Linux"}},
		{"escapes", `PRETTY_NAME="a \"b\" \$c \\ \x"`, OSRelease{PrettyName: `a "b" $c \ \x`}},
		{"single quotes take all", `PRETTY_NAME='a \"b'`, OSRelease{PrettyName: `a \"b`}},
		{"unquoted escape", `ID=a\ b`, OSRelease{ID: "a b"}},
		{"empty", "", OSRelease{}},
		{"comments, blanks and CRLF", "# ID=no\r\n\r\n  ID=yes\r\nnonsense\r\n", OSRelease{ID: "yes"}},
		{"last counts", "ID=a\nID=b", OSRelease{ID: "b"}},
		{"other names", "ID_LIKE=debian\nVERSION=12\n", OSRelease{}},
		{"open quote and lone backslash", "ID=\"a\nVERSION_ID=\\", OSRelease{ID: "a", VersionID: "\\"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, ParseOSRelease(tt.text)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func write(t *testing.T, root, path, content string) {
	t.Helper()
	path = filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestRead(t *testing.T) {
	root := t.TempDir()
	write(t, root, "proc/sys/kernel/random/boot_id", "6f2ad6c9-9d2c-4c2c-9d7e-0f6f3a2a1b3c\n")
	write(t, root, "etc/machine-id", "0123456789abcdef0123456789abcdef\n")
	write(t, root, "usr/lib/os-release", "ID=second\nPRETTY_NAME=\"bad \xff byte\"\n")
	f := Read(root)
	if f.BootID != "6f2ad6c9-9d2c-4c2c-9d7e-0f6f3a2a1b3c" {
		t.Errorf("boot id %q", f.BootID)
	}
	if f.MachineID != "0123456789abcdef0123456789abcdef" {
		t.Errorf("machine id %q", f.MachineID)
	}
	if want := (OSRelease{ID: "second", PrettyName: "bad \uFFFD byte"}); f.OS != want {
		t.Errorf("OS %+v, want %+v", f.OS, want)
	}
	if f.KernelName != "Linux" || f.KernelRelease == "" || f.Architecture == "" {
		t.Errorf("uname: %+v", f)
	}
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(f.Hostname, []byte(name)) {
		t.Errorf("hostname %q, want %q", f.Hostname, name)
	}

	write(t, root, "etc/os-release", "ID=first\n")
	if id := Read(root).OS.ID; id != "first" {
		t.Errorf("/etc/os-release does not come first: %q", id)
	}
}

func TestReadEmptyRoot(t *testing.T) {
	f := Read(t.TempDir())
	if f.BootID != "" || f.MachineID != "" || f.OS != (OSRelease{}) {
		t.Errorf("facts out of nothing: %+v", f)
	}
}

func TestMachineID(t *testing.T) {
	for _, content := range []string{
		"uninitialized\n", "", "0123456789ABCDEF0123456789abcdef\n", strings.Repeat("0", 31) + "\n", strings.Repeat("0", 33) + "\n", "../../../../../../etc/passwd0000\n",
	} {
		root := t.TempDir()
		write(t, root, "etc/machine-id", content)
		if id := machineID(root); id != "" {
			t.Errorf("%q gave the id %q", content, id)
		}
	}
}

func TestReadFileIsBounded(t *testing.T) {
	root := t.TempDir()
	write(t, root, "big", strings.Repeat("x", 2*maxFile))
	if n := len(readFile(filepath.Join(root, "big"))); n != maxFile {
		t.Errorf("read %d bytes, want %d", n, maxFile)
	}
}

func TestUptime(t *testing.T) {
	a := Uptime()
	b := Uptime()
	if a <= 0 || b < a || a > 100*365*24*time.Hour {
		t.Errorf("uptime %v, then %v", a, b)
	}
}

// TestKnown: what could be read once is known when it cannot be read any more, as by an
// agent without descriptors; what has changed is seen.
func TestKnown(t *testing.T) {
	root := t.TempDir()
	bootID, machineID := filepath.Join(root, "proc/sys/kernel/random/boot_id"), filepath.Join(root, "etc/machine-id")
	const first, second = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
	put := func(path, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text+"\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	var k Known
	if f := k.Read(root); f.BootID != "" || f.MachineID != "" {
		t.Errorf("%+v of an empty root", f)
	}
	put(bootID, "boot")
	put(machineID, first)
	k.Read(root)
	if err := errors.Join(os.Remove(bootID), os.Remove(machineID)); err != nil {
		t.Fatal(err)
	}
	if f := k.Read(root); f.BootID != "boot" || f.MachineID != first {
		t.Errorf("%+v, want what was read before", f)
	}
	put(machineID, second)
	if f := k.Read(root); f.BootID != "boot" || f.MachineID != second {
		t.Errorf("%+v, want the new machine id", f)
	}
}
