package guest_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vsockrpc/vsockrpc/guest"
)

// fileTree is what a tree of files is: by path, type, permissions, contents or
// target, and time of modification.
type fileTree map[string]treeFile

type treeFile struct {
	Mode      fs.FileMode
	Text      string
	Time      time.Time
	Inode     int // of files with several names: which
	Allocated bool
}

func readTree(tb testing.TB, dir string) fileTree {
	tb.Helper()
	tree := make(fileTree)
	inodes := make(map[uint64]int)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil || rel == "." {
			return err
		}
		f := treeFile{Mode: info.Mode()}
		if st := info.Sys().(*syscall.Stat_t); st.Nlink > 1 && !info.IsDir() {
			if inodes[st.Ino] == 0 {
				inodes[st.Ino] = len(inodes) + 1
			}
			f.Inode = inodes[st.Ino]
		}
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			f.Text, err = os.Readlink(path)
		case info.Mode().IsRegular():
			var data []byte
			data, err = os.ReadFile(path)
			f.Text, f.Time = string(data), info.ModTime()
		default:
			f.Time = info.ModTime()
		}
		tree[rel] = f
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return tree
}

// makeTree makes a tree with one of everything.
func makeTree(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	big := make([]byte, 3<<20+12345)
	rand.Read(big)
	write := func(name string, data []byte, mode fs.FileMode) {
		if err := os.WriteFile(filepath.Join(dir, name), data, mode); err != nil {
			tb.Fatal(err)
		}
	}
	check := func(err error) {
		if err != nil {
			tb.Fatal(err)
		}
	}
	check(os.MkdirAll(filepath.Join(dir, "a/b/c"), 0o755))
	check(os.MkdirAll(filepath.Join(dir, "a-b"), 0o700))
	check(os.MkdirAll(filepath.Join(dir, "empty"), 0o755))
	write("big", big, 0o644)
	write("a/b/c/deep", []byte("deep"), 0o600)
	write("a/none", nil, 0o644)
	write("a/run", []byte("#!/bin/sh\n"), 0o755)
	write("a-b/\xff\xfe not utf-8\n", []byte("bytes"), 0o644)
	write("a/first", []byte("two names"), 0o644)
	check(os.Link(filepath.Join(dir, "a/first"), filepath.Join(dir, "a/second")))
	check(os.Symlink("b/c/deep", filepath.Join(dir, "a/link")))
	check(os.Symlink("../empty", filepath.Join(dir, "a/up")))
	sparse, err := os.Create(filepath.Join(dir, "sparse"))
	check(err)
	_, err = sparse.WriteAt([]byte("middle"), 5<<20)
	check(err)
	check(sparse.Truncate(8 << 20))
	check(sparse.Close())
	check(os.Chmod(filepath.Join(dir, "a/b/c"), 0o555))
	tb.Cleanup(func() { os.Chmod(filepath.Join(dir, "a/b/c"), 0o755) })
	old := time.Unix(1_000_000_000, 123456789)
	for _, name := range []string{"big", "a/run", "a/b/c/deep", "a/b/c", "a/b", "a", "empty"} {
		check(os.Chtimes(filepath.Join(dir, name), old, old))
	}
	return dir
}

func TestCopyTree(t *testing.T) {
	g := dialAgent(t, startAgent(t))
	src := makeTree(t)
	for _, archive := range []bool{false, true} {
		opts := &guest.CopyOptions{Archive: archive, Sync: guest.SyncNone}
		want := readTree(t, src)
		if !archive {
			for name, f := range want {
				f.Inode = 0
				want[name] = f
			}
		}
		check := func(t *testing.T, dir string, result *guest.CopyResult, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, readTree(t, dir)); diff != "" {
				t.Errorf("archive=%v: (-want +got)\n%.2000s", archive, diff)
			}
			if st, err := os.Stat(filepath.Join(dir, "sparse")); err != nil || st.Sys().(*syscall.Stat_t).Blocks*512 > 1<<20 {
				t.Errorf("the sparse file is not sparse: %v", err)
			}
			t.Cleanup(func() { os.Chmod(filepath.Join(dir, "a/b/c"), 0o755) })
		}
		t.Run("to", func(t *testing.T) {
			dst := filepath.Join(t.TempDir(), "new")
			result, err := g.Files().CopyTo(t.Context(), []string{src}, dst, opts)
			check(t, dst, result, err)
		})
		t.Run("from", func(t *testing.T) {
			dst := filepath.Join(t.TempDir(), "new")
			result, err := g.Files().CopyFrom(t.Context(), []string{src + "/."}, dst, opts)
			check(t, dst, result, err)
			again, err := g.Files().CopyFrom(t.Context(), []string{src + "/."}, dst, &guest.CopyOptions{Archive: archive, Resume: true, Checksum: true})
			if err != nil || again.Bytes != 0 || again.Skipped == 0 {
				t.Errorf("again: %+v, %v", again, err)
			}
			check(t, dst, again, nil)
		})
	}
}

func TestFS(t *testing.T) {
	g := dialAgent(t, startAgent(t))
	src := makeTree(t)
	// TestFS reads byte by byte.
	for _, name := range []string{"a-b", "big", "sparse"} {
		if err := os.RemoveAll(filepath.Join(src, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := fstest.TestFS(g.FS(t.Context(), src), "a/b/c/deep", "a/none", "empty"); err != nil {
		t.Error(err)
	}
}

func TestRemoteFile(t *testing.T) {
	g := dialAgent(t, startAgent(t))
	name := filepath.Join(t.TempDir(), "f")
	f, err := g.Files().Create(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 5<<20)
	rand.Read(data)
	if n, err := f.Write(data); n != len(data) || err != nil {
		t.Fatal(n, err)
	}
	if n, err := f.WriteAt([]byte("patch"), 1000); n != 5 || err != nil {
		t.Fatal(n, err)
	}
	copy(data[1000:], "patch")
	got := make([]byte, len(data))
	if n, err := f.ReadAt(got, 0); n != len(data) || err != nil || !bytes.Equal(got, data) {
		t.Fatal(n, err)
	}
	if n, err := f.ReadAt(got[:100], int64(len(data)-50)); n != 50 || err == nil {
		t.Errorf("at the end: %d, %v", n, err)
	}
	if err := f.Truncate(10); err != nil {
		t.Error(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Error(err)
	}
	if on, err := os.ReadFile(name); err != nil || !bytes.Equal(on, data[:10]) {
		t.Errorf("on disk: %q, %v", on, err)
	}
	if _, err := g.Files().Open(t.Context(), name+"x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}
