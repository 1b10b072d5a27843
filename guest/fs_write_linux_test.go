package guest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vsockrpc/vsockrpc/guest"
)

func TestWriteFile(t *testing.T) {
	files := dialAgent(t, startAgent(t)).Files()
	dir := t.TempDir()
	name, link := filepath.Join(dir, "f"), filepath.Join(dir, "link")
	must(t, files.WriteFile(t.Context(), name, []byte("first"), 0o640))
	info, err := os.Stat(name)
	must(t, err)
	if info.Mode() != 0o640 || info.Size() != 5 {
		t.Errorf("a new file is %v", info)
	}
	must(t, os.Chmod(name, 0o604), os.Symlink("f", link))
	big := bytes.Repeat([]byte("0123456789"), 100_000)
	for _, data := range [][]byte{[]byte("second"), nil, big} {
		must(t, files.WriteFile(t.Context(), link, data, 0o777))
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes became %d, %v", len(data), len(got), err)
		}
		if info, err := os.Lstat(name); err != nil || info.Mode() != 0o604 {
			t.Errorf("it has the mode %v, %v, want that of before", info.Mode(), err)
		}
		if info, err := os.Lstat(link); err != nil || info.Mode().Type() != fs.ModeSymlink {
			t.Errorf("the link is %v, %v", info.Mode(), err)
		}
	}
	if err := files.WriteFile(t.Context(), dir, nil, 0o644); err == nil {
		t.Error("a directory was written")
	}
	noLeftovers(t, dir)
	failing := io.MultiReader(bytes.NewReader(big), unpluggedReader{})
	if _, err := files.CopyReader(t.Context(), failing, name, 0o644, nil); err == nil || !strings.Contains(err.Error(), "unplugged") {
		t.Errorf("a reader that fails: %v", err)
	}
	if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, big) {
		t.Errorf("after a reader that fails it has %d bytes, %v, want those of before", len(got), err)
	}
	noLeftovers(t, dir)
}

type unpluggedReader struct{}

func (unpluggedReader) Read([]byte) (int, error) { return 0, errors.New("unplugged") }

func TestGlob(t *testing.T) {
	files := dialAgent(t, startAgent(t)).Files()
	dir := t.TempDir()
	for _, name := range []string{"a.log", "b.log", ".c.log", "d/a.log", "d/x", "e/a.log", "[x]"} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755), os.WriteFile(filepath.Join(dir, name), nil, 0o644))
	}
	for pattern, want := range map[string][]string{
		"*.log": {"a.log", "b.log"}, ".*.log": {".c.log"}, "*/a.log": {"d/a.log", "e/a.log"}, "d/*": {"d/a.log", "d/x"},
		`\[x\]`: {"[x]"}, "none*": nil, "a.log/*": nil, "none/*": nil, "?": {"d", "e"},
	} {
		var full []string
		for _, name := range want {
			full = append(full, filepath.Join(dir, name))
		}
		got, err := files.Glob(t.Context(), dir+"/"+pattern)
		if diff := cmp.Diff(full, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got)\n%s", pattern, err, diff)
		}
	}
	if _, err := files.Glob(t.Context(), "["); err == nil {
		t.Error("a bad pattern is no error")
	}
}

// TestFollow follows a file that grows, is replaced, and shrinks.
func TestFollow(t *testing.T) {
	files := dialAgent(t, startAgent(t)).Files()
	name := filepath.Join(t.TempDir(), "log")
	must(t, os.WriteFile(name, []byte("skipped one\n"), 0o644))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := files.Follow(ctx, w, name, 8)
		w.CloseWithError(err)
		done <- err
	}()
	expect := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		if n, err := io.ReadFull(r, got); err != nil || string(got) != want {
			t.Fatalf("%q, %v, want %q", got[:n], err, want)
		}
	}
	expect("one\n")
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	f.WriteString("two\n")
	expect("two\n")
	must(t, f.Close(), os.WriteFile(name+".new", []byte("another file, that has the name now\n"), 0o644), os.Rename(name+".new", name))
	expect("another file, that has the name now\n")
	must(t, os.WriteFile(name, []byte("short\n"), 0o644))
	expect("short\n")
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("it ends with %v", err)
	}
	if err := files.Follow(t.Context(), io.Discard, name+"x", 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

// TestDelete has the destination lose what the source lacks, but for what is excluded.
func TestDelete(t *testing.T) {
	bothWays(t, func(t *testing.T, _ *guest.Files, do copyFunc) {
		for _, contents := range []bool{true, false} {
			src, dst := filepath.Join(t.TempDir(), "src"), t.TempDir()
			from, to := src+"/.", dst
			if !contents {
				from, to = src, filepath.Join(dst, "src")
			}
			for _, name := range []string{src + "/d/keep", src + "/e/f", to + "/d/gone", to + "/old/x/y", to + "/left.o", to + "/old.d/left.o"} {
				must(t, os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte("x"), 0o644))
			}
			result, err := do(t.Context(), []string{from}, dst, &guest.CopyOptions{Delete: true, Exclude: []string{"*.o"}})
			must(t, err)
			if result.Deleted != 4 || result.Files != 2 {
				t.Errorf("%+v, want 2 files made and 4 deleted", result)
			}
			var got []string
			for name := range readTree(t, to) {
				got = append(got, name)
			}
			slices.Sort(got)
			if diff := cmp.Diff([]string{"d", "d/keep", "e", "e/f", "left.o", "old.d", "old.d/left.o"}, got); diff != "" {
				t.Errorf("contents=%v (-want +got)\n%s", contents, diff)
			}
			must(t, os.MkdirAll(to+"/old/x", 0o755))
			if result, err := do(t.Context(), []string{from}, dst, &guest.CopyOptions{Delete: true}); err != nil || result.Deleted != 3 {
				t.Errorf("again, with nothing excluded: %+v, %v, want left.o, old and old.d deleted", result, err)
			}
		}
	})
}
