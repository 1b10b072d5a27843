package vmtest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type entry struct {
	Name, Data string
	Mode       int
}

// readInitramfs reads an archive as the kernel does, init/initramfs.c.
func readInitramfs(t *testing.T, data []byte) (entries []entry) {
	t.Helper()
	align := func(n int) int { return (n + 3) &^ 3 }
	for at := 0; ; {
		var f [13]int
		if n, err := fmt.Sscanf(string(data[at:at+110]), "070701%8x%8x%8x%8x%8x%8x%8x%8x%8x%8x%8x%8x%8x",
			&f[0], &f[1], &f[2], &f[3], &f[4], &f[5], &f[6], &f[7], &f[8], &f[9], &f[10], &f[11], &f[12]); err != nil {
			t.Fatalf("header at %d: %d fields, %v", at, n, err)
		}
		mode, size, nameSize := f[1], f[6], f[11]
		body := align(at + 110 + nameSize)
		name, ok := bytes.CutSuffix(data[at+110:at+110+nameSize], []byte{0})
		if !ok {
			t.Fatalf("name %q without its NUL", name)
		}
		if string(name) == "TRAILER!!!" {
			if rest := len(data) - body - size; rest != 0 {
				t.Errorf("%d bytes behind the end", rest)
			}
			return entries
		}
		entries = append(entries, entry{string(name), string(data[body : body+size]), mode})
		at = align(body + size)
	}
}

func TestInitramfs(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "source")
	if err := os.WriteFile(source, []byte("program"), 0o600); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "cpio")
	a := createInitramfs(name)
	a.Copy("/init", source)
	a.File("/etc/a/b", "12345")
	a.File("etc/a/../c", "1234")
	a.Symlink("/etc/link", "a/b")
	a.Dir("/tmp")
	a.Dir("/tmp")
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	want := []entry{
		{"init", "program", 0o100755},
		{"etc", "", 0o040755},
		{"etc/a", "", 0o040755},
		{"etc/a/b", "12345", 0o100644},
		{"etc/c", "1234", 0o100644},
		{"etc/link", "a/b", 0o120777},
		{"tmp", "", 0o040755},
	}
	if diff := cmp.Diff(want, readInitramfs(t, data)); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

func TestInitramfsErrors(t *testing.T) {
	dir := t.TempDir()
	a := createInitramfs(filepath.Join(dir, "cpio"))
	a.Copy("/init", filepath.Join(dir, "missing"))
	a.File("/later", "x")
	if err := a.Close(); !os.IsNotExist(err) {
		t.Errorf("Close after a missing source: %v", err)
	}
	a = createInitramfs(filepath.Join(dir, "no", "such", "dir"))
	a.File("/file", "x")
	if err := a.Close(); !os.IsNotExist(err) {
		t.Errorf("Close of what could not be created: %v", err)
	}
}
