package file_test

import (
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestOpenFlags shows what each flag of an open file does to one that is there, and
// to one that is not.
func TestOpenFlags(t *testing.T) {
	files, _ := serve(t, "")
	tests := []struct {
		name   string
		flag   int
		before string // of a file that is there; empty: none is
		want   string // after "new" was written; empty: it cannot be opened
	}{
		{"truncate", os.O_WRONLY | os.O_TRUNC, "much longer", "new"},
		{"truncate and read", os.O_RDWR | os.O_TRUNC, "much longer", "new"},
		{"write", os.O_WRONLY, "much longer", "newh longer"},
		{"append", os.O_WRONLY | os.O_APPEND, "old ", "old new"},
		{"create", os.O_WRONLY | os.O_CREATE, "", "new"},
		{"create one that is there", os.O_WRONLY | os.O_CREATE, "much longer", "newh longer"},
		{"create and truncate", os.O_RDWR | os.O_CREATE | os.O_TRUNC, "much longer", "new"},
		{"exclusive", os.O_WRONLY | os.O_CREATE | os.O_EXCL, "", "new"},
		{"exclusive, and it is there", os.O_WRONLY | os.O_CREATE | os.O_EXCL, "old", ""},
		{"write one that is missing", os.O_WRONLY, "", ""},
		{"truncate one that is missing", os.O_WRONLY | os.O_TRUNC, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "f")
			if tt.before != "" {
				write(t, name, tt.before)
			}
			f, err := files.OpenFile(t.Context(), name, tt.flag, 0o644)
			if tt.want == "" {
				if err == nil {
					t.Fatal("it was opened")
				}
				if data, _ := os.ReadFile(name); string(data) != tt.before {
					t.Errorf("refused, and now it is %q", data)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(f, "new"); err != nil {
				t.Error(err)
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
			if data, err := os.ReadFile(name); err != nil || string(data) != tt.want {
				t.Errorf("%q, %v; want %q", data, err, tt.want)
			}
		})
	}
}

// TestOpenMode shows that a new file has the mode asked for, less the umask, and that
// one which is there keeps its own.
func TestOpenMode(t *testing.T) {
	files, _ := serve(t, "")
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	umask := umaskOf(t, string(status))
	for _, mode := range []os.FileMode{0o600, 0o640, 0o755, 0o400} {
		name := filepath.Join(t.TempDir(), "f")
		f, err := files.OpenFile(t.Context(), name, os.O_WRONLY|os.O_CREATE, mode)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		if info, err := os.Stat(name); err != nil || info.Mode() != mode&^umask {
			t.Errorf("made with %v: %v, %v", mode, info.Mode(), err)
		}
		if err := os.Chmod(name, 0o664); err != nil {
			t.Fatal(err)
		}
		if f, err = files.OpenFile(t.Context(), name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, mode); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if info, err := os.Stat(name); err != nil || info.Mode() != 0o664 {
			t.Errorf("opened again with %v: %v, %v; want the mode that it had", mode, info.Mode(), err)
		}
	}
}

// umaskOf reads the umask of /proc/self/status.
func umaskOf(t *testing.T, status string) os.FileMode {
	t.Helper()
	for line := range strings.Lines(status) {
		if octal, ok := strings.CutPrefix(line, "Umask:"); ok {
			mask, err := strconv.ParseUint(strings.TrimSpace(octal), 8, 32)
			if err != nil {
				t.Fatal(err)
			}
			return os.FileMode(mask)
		}
	}
	t.Fatal("no umask")
	return 0
}
