package trusted

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// write makes a file, and the directories above it in dir.
func write(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("text"), mode); err != nil {
		t.Fatal(err)
	}
	chmod(t, path, mode)
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// as runs f, which must come to an end.
func as[T any](t *testing.T, f func() (T, error)) (T, error) {
	t.Helper()
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case <-time.After(30 * time.Second):
		t.Fatal("it hangs")
		panic("unreachable")
	}
}

// TestRead: who else may write the file, or put another in its place.
func TestRead(t *testing.T) {
	const ok = ""
	tests := []struct {
		name string
		make func(t *testing.T, d string) // d/a/b/file is read
		want string                       // in the error; ok: none
		path string                       // that the error names, in d
	}{
		{"plain", func(t *testing.T, d string) {}, ok, ""},
		{"for others to read", func(t *testing.T, d string) { chmod(t, d+"/a/b/file", 0o644) }, ok, ""},
		{"for the group to write", func(t *testing.T, d string) {
			chmod(t, d+"/a/b/file", 0o620)
			chown(t, d+"/a/b/file", os.Geteuid(), 65534)
		}, "chmod go-w", "a/b/file"},
		{"for all to write", func(t *testing.T, d string) { chmod(t, d+"/a/b/file", 0o602) }, "chmod go-w", "a/b/file"},
		{"directory for all", func(t *testing.T, d string) { chmod(t, d+"/a/b", 0o777) }, "chmod go-w", "a/b"},
		{"directory above for all", func(t *testing.T, d string) { chmod(t, d+"/a", 0o777) }, "chmod go-w", "a"},
		{"sticky directory above", func(t *testing.T, d string) { chmod(t, d+"/a", 0o777|fs.ModeSticky) }, ok, ""},
		{"in a sticky directory", func(t *testing.T, d string) { chmod(t, d+"/a/b", 0o777|fs.ModeSticky) }, "move it", "a/b/file"},
		{"foreign file", func(t *testing.T, d string) { chown(t, d+"/a/b/file", 65534, 65534) }, "chown", "a/b/file"},
		{"foreign directory", func(t *testing.T, d string) { chown(t, d+"/a", 65534, 65534) }, "chown", "a"},
		{"link to a file", func(t *testing.T, d string) {
			os.Rename(d+"/a/b/file", d+"/a/other")
			link(t, "../other", d+"/a/b/file")
		}, ok, ""},
		{"absolute link of a directory", func(t *testing.T, d string) {
			os.Rename(d+"/a/b", d+"/c")
			link(t, d+"/c", d+"/a/b")
		}, ok, ""},
		{"link through a directory for all", func(t *testing.T, d string) {
			write(t, d+"/evil/file", 0o600)
			chmod(t, d+"/evil", 0o777)
			os.Remove(d + "/a/b/file")
			link(t, "../../evil/file", d+"/a/b/file")
		}, "chmod go-w", "evil"},
		{"link in a sticky directory", func(t *testing.T, d string) {
			os.Rename(d+"/a/b", d+"/c")
			link(t, d+"/c", d+"/a/b")
			chmod(t, d+"/a", 0o777|fs.ModeSticky)
		}, "is a link", "a/b"},
		{"links in a circle", func(t *testing.T, d string) {
			os.Remove(d + "/a/b/file")
			link(t, "file", d+"/a/b/file")
		}, "too many levels", "a/b/file"},
		{"FIFO", func(t *testing.T, d string) {
			os.Remove(d + "/a/b/file")
			if err := unix.Mkfifo(d+"/a/b/file", 0o600); err != nil {
				t.Fatal(err)
			}
		}, "no regular file", "a/b/file"},
		{"link to a FIFO", func(t *testing.T, d string) {
			os.Remove(d + "/a/b/file")
			if err := unix.Mkfifo(d+"/fifo", 0o600); err != nil {
				t.Fatal(err)
			}
			link(t, "../../fifo", d+"/a/b/file")
		}, "no regular file", "fifo"},
		{"directory in its place", func(t *testing.T, d string) {
			os.Remove(d + "/a/b/file")
			os.Mkdir(d+"/a/b/file", 0o700)
		}, "no regular file", "a/b/file"},
		{"too large", func(t *testing.T, d string) { os.WriteFile(d+"/a/b/file", make([]byte, 101), 0o600) }, "more than 100 bytes", "a/b/file"},
		{"absent", func(t *testing.T, d string) { os.Remove(d + "/a/b/file") }, "no such file", "a/b/file"},
		{"absent directory", func(t *testing.T, d string) { os.RemoveAll(d + "/a") }, "no such file", "a"},
		// Who may remove the file may make it seem that there is none.
		{"absent, directory for all", func(t *testing.T, d string) {
			os.Remove(d + "/a/b/file")
			chmod(t, d+"/a/b", 0o777)
		}, "chmod go-w", "a/b"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := t.TempDir()
			chmod(t, d, 0o755)
			write(t, d+"/a/b/file", 0o600)
			tt.make(t, d)
			data, err := as(t, func() ([]byte, error) { return Read(d+"/a/b/file", 100) })
			if tt.want == ok {
				if err != nil || string(data) != "text" {
					t.Errorf("%q, %v", data, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), d+"/"+tt.path+" ") && !strings.Contains(err.Error(), d+"/"+tt.path+":") {
				t.Errorf("%v; want %q about %s", err, tt.want, tt.path)
			}
			if absent := strings.HasPrefix(tt.want, "no such"); errors.Is(err, fs.ErrNotExist) != absent {
				t.Errorf("%v: absent is %t", err, !absent)
			}
		})
	}
}

// chown needs root, which the tests of foreign files do too.
func chown(t *testing.T, path string, uid, gid int) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	mode, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, uid, gid); err != nil {
		t.Fatal(err)
	}
	chmod(t, path, mode.Mode())
}

// TestReadSecret: a private key is nobody else's to read.
func TestReadSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	for mode, ok := range map[os.FileMode]bool{0o600: true, 0o400: true, 0o640: false, 0o604: false, 0o622: false} {
		os.Remove(path) // only root may write one of mode 0400
		write(t, path, mode)
		_, err := ReadSecret(path, 100)
		if (err == nil) != ok || !ok && (!errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), "chmod")) {
			t.Errorf("%#o: %v", mode, err)
		}
	}
}

// TestReadNamed: of a file that the user has named, what it is and who may write it
// count, and not where it lies.
func TestReadNamed(t *testing.T) {
	d := t.TempDir()
	path := filepath.Join(d, "file")
	chmod(t, d, 0o777)
	for mode, ok := range map[os.FileMode]bool{0o644: true, 0o666: false} {
		write(t, path, 0o600)
		chmod(t, path, mode)
		if _, err := ReadNamed(path, 100, 0o022); (err == nil) != ok {
			t.Errorf("%#o: %v", mode, err)
		}
	}
	if _, err := ReadNamed(path, 3, 0); err == nil {
		t.Error("a file beyond the bound was read")
	}
	os.Remove(path)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := as(t, func() ([]byte, error) { return ReadNamed(path, 100, 0) }); err == nil {
		t.Error("a FIFO was read")
	}
}

// TestReplace: a file is replaced in one step, in a directory that is trusted.
func TestReplace(t *testing.T) {
	d := t.TempDir()
	path := filepath.Join(d, "new", "file")
	for _, text := range []string{"one", "two"} {
		if err := Replace(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if data, err := ReadSecret(path, 100); err != nil || string(data) != text {
			t.Errorf("%q, %v", data, err)
		}
	}
	if err := Create(path, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("create: %v", err)
	}
	if err := Create(path+"2", []byte("x")); err != nil {
		t.Error(err)
	}
	chmod(t, filepath.Dir(path), 0o777)
	for what, err := range map[string]error{"replace": Replace(path, nil), "create": Create(path+"3", nil)} {
		if !errors.Is(err, ErrUntrusted) {
			t.Errorf("%s, in a directory for all: %v", what, err)
		}
	}
	if names, _ := os.ReadDir(filepath.Dir(path)); len(names) != 2 {
		t.Errorf("left behind: %v", names)
	}
}

// TestNamesNoFile: paths that can be no file.
func TestNamesNoFile(t *testing.T) {
	for _, path := range []string{"", "/", "/etc/", "/..", t.TempDir() + "/x/.."} {
		if _, err := Read(path, 100); err == nil {
			t.Errorf("%q was read", path)
		}
	}
}
