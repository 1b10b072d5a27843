//go:build linux

package process

import (
	"debug/elf"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReadELF compares with debug/elf on this test's own binary and a shell, and
// reads damaged files.
func TestReadELF(t *testing.T) {
	for _, name := range []string{"/proc/self/exe", "/bin/sh"} {
		want, err := elf.Open(name)
		if err != nil {
			t.Skip(err)
		}
		loader := ""
		for _, p := range want.Progs {
			if p.Type == elf.PT_INTERP {
				b := make([]byte, p.Filesz)
				if _, err := p.ReadAt(b, 0); err != nil {
					t.Fatal(err)
				}
				loader = strings.TrimRight(string(b), "\x00")
			}
		}
		want.Close()
		got, ok := readELF(name)
		if !ok || got.loader != loader || strings.HasPrefix(got.machine, "ELF machine") {
			t.Errorf("%s: %+v, %t, want the loader %q", name, got, ok, loader)
		}
	}
	for name, text := range map[string]string{"empty": "", "short": "\x7fELF\x02\x01", "text": strings.Repeat("x", 100), "class": "\x7fELF\x09" + strings.Repeat("\x00", 100)} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if f, ok := readELF(path); ok {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

func FuzzReadELF(f *testing.F) {
	f.Add([]byte("\x7fELF\x02\x01\x01" + strings.Repeat("\xff", 60)))
	f.Add([]byte("\x7fELF\x01\x02\x01" + strings.Repeat("\x01", 200)))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "x")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, ok := readELF(path); ok && (got.machine == "" || len(got.loader) > 4096) {
			t.Errorf("%+v", got)
		}
	})
}
