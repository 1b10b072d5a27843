package guest_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/guest"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestFileVerbs has each verb do its work, and looks at the file system for it.
func TestFileVerbs(t *testing.T) {
	files := dialAgent(t, startAgent(t)).Files()
	ctx, dir := t.Context(), t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	lstat := func(name string) fs.FileInfo {
		t.Helper()
		info, err := os.Lstat(at(name))
		if err != nil {
			t.Fatal(err)
		}
		return info
	}

	ok(files.Mkdir(ctx, at("d"), 0o750))
	if m := lstat("d").Mode(); m != fs.ModeDir|0o750 {
		t.Errorf("Mkdir: %v", m)
	}
	if err := files.Mkdir(ctx, at("d"), 0o750); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Mkdir again: %v", err)
	}
	ok(files.MkdirAll(ctx, at("d/e/f"), 0o700))
	ok(files.MkdirAll(ctx, at("d/e/f"), 0o700))
	if !lstat("d/e/f").IsDir() {
		t.Error("MkdirAll has made no directory")
	}

	contents := bytes.Repeat([]byte("0123456789"), 1000)
	ok(os.WriteFile(at("file"), contents, 0o600))
	sum, n, err := files.Hash(ctx, at("file"), 5, 1234)
	if err != nil || n != 1234 || sum != sha256.Sum256(contents[5:1239]) {
		t.Errorf("Hash of a range: %x of %d bytes, %v", sum, n, err)
	}
	sum, n, err = files.Hash(ctx, at("file"), 9990, 0)
	if err != nil || n != 10 || sum != sha256.Sum256(contents[9990:]) {
		t.Errorf("Hash to the end: %x of %d bytes, %v", sum, n, err)
	}
	var part bytes.Buffer
	if err := files.CopyRange(ctx, &part, at("file"), 7, 20); err != nil || !bytes.Equal(part.Bytes(), contents[7:27]) {
		t.Errorf("CopyRange: %q, %v", part.Bytes(), err)
	}
	ok(files.Truncate(ctx, at("file"), 10))
	if data, _ := os.ReadFile(at("file")); string(data) != "0123456789" {
		t.Errorf("Truncate: %q", data)
	}
	ok(files.Chmod(ctx, at("file"), fs.ModeSetuid|0o711))
	if m := lstat("file").Mode(); m != 0o711|fs.ModeSetuid {
		t.Errorf("Chmod: %v", m)
	}
	accessed, modified := time.Unix(1_000_000, 1), time.Unix(2_000_000, 2)
	ok(files.Chtimes(ctx, at("file"), accessed, modified))
	if st := lstat("file").Sys().(*syscall.Stat_t); st.Atim.Nano() != accessed.UnixNano() || st.Mtim.Nano() != modified.UnixNano() {
		t.Errorf("Chtimes: %v, %v", st.Atim, st.Mtim)
	}

	ok(files.Symlink(ctx, "file", at("link")))
	if target, err := os.Readlink(at("link")); target != "file" {
		t.Errorf("Symlink: %q, %v", target, err)
	}
	if target, err := files.ReadLink(ctx, at("link")); err != nil || target != "file" {
		t.Errorf("ReadLink: %q, %v", target, err)
	}
	if info, err := files.Lstat(ctx, at("link")); err != nil || info.Mode().Type() != fs.ModeSymlink {
		t.Errorf("Lstat: %v, %v", info, err)
	}
	if info, err := files.Stat(ctx, at("link")); err != nil || !info.Mode().IsRegular() || info.Size() != 10 || !info.ModTime().Equal(modified) {
		t.Errorf("Stat: %v, %v", info, err)
	}
	ok(files.Link(ctx, at("file"), at("hard")))
	if !os.SameFile(lstat("file"), lstat("hard")) {
		t.Error("Link has made no hard link")
	}
	if os.Geteuid() == 0 {
		ok(files.Lchown(ctx, at("link"), "4242", "4343"))
		ok(files.Chown(ctx, at("link"), "4244", ""))
		link, file := lstat("link").Sys().(*syscall.Stat_t), lstat("file").Sys().(*syscall.Stat_t)
		if link.Uid != 4242 || link.Gid != 4343 || file.Uid != 4244 || file.Gid != 0 {
			t.Errorf("Chown: the link %d:%d, the file %d:%d", link.Uid, link.Gid, file.Uid, file.Gid)
		}
	}
	if err := files.SetXattr(ctx, at("file"), "user.test", []byte("a\x00b")); errors.Is(err, errors.ErrUnsupported) {
		t.Log("no extended attributes here")
	} else {
		ok(err)
		attrs, err := files.Xattrs(ctx, at("file"))
		if err != nil || string(attrs["user.test"]) != "a\x00b" {
			t.Errorf("Xattrs: %q, %v", attrs, err)
		}
		ok(files.SetXattr(ctx, at("file"), "user.test", nil))
	}

	temp, err := files.CreateTemp(ctx, dir, "a-*.txt")
	ok(err)
	name := temp.Name()
	if _, err := temp.Write([]byte("x")); err != nil || lstat(filepath.Base(name)).Size() != 1 {
		t.Errorf("write to %s: %v", name, err)
	}
	ok(temp.Close())
	if base := filepath.Base(name); filepath.Dir(name) != dir || !strings.HasPrefix(base, "a-") || !strings.HasSuffix(base, ".txt") || lstat(base).Mode() != 0o600 {
		t.Errorf("CreateTemp: %s", name)
	}
	ok(files.Remove(ctx, name))
	if name, err = files.MkdirTemp(ctx, dir, "b-*"); err != nil || lstat(filepath.Base(name)).Mode() != fs.ModeDir|0o700 {
		t.Errorf("MkdirTemp: %s, %v", name, err)
	}
	ok(files.Remove(ctx, name))

	ok(files.Rename(ctx, at("hard"), at("d/e/moved")))
	if _, err := os.Lstat(at("hard")); !os.IsNotExist(err) || lstat("d/e/moved").Size() != 10 {
		t.Errorf("Rename: %v", err)
	}
	if usage, err := files.DiskUsage(ctx, at("d")); err != nil || usage.Files != 1 || usage.Directories != 3 {
		t.Errorf("DiskUsage: %v, %v", usage, err)
	}
	var st syscall.Statfs_t
	ok(syscall.Statfs(dir, &st))
	if free, err := files.DiskFree(ctx, dir); err != nil || free.TotalBytes != st.Blocks*uint64(st.Bsize) {
		t.Errorf("DiskFree: %v, %v", free, err)
	}
	for depth, want := range map[int][]string{0: {"e"}, 1: {"e", "e/f", "e/moved"}} {
		var names []string
		for info, err := range files.List(ctx, at("d"), &guest.ListOptions{Depth: depth}) {
			ok(err)
			names = append(names, info.Path())
		}
		if !slices.Equal(names, want) {
			t.Errorf("List to depth %d: %q, want %q", depth, names, want)
		}
	}
	if err := files.Remove(ctx, at("d")); !errors.Is(err, syscall.ENOTEMPTY) {
		t.Errorf("Remove of a full directory: %v", err)
	}
	ok(files.RemoveAll(ctx, at("d")))
	ok(files.RemoveAll(ctx, at("d")))
	if err := files.Remove(ctx, at("d")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Remove of nothing: %v", err)
	}
	if pe, ok := errors.AsType[*fs.PathError](files.Remove(ctx, at("d"))); ok && pe.Path != at("d") {
		t.Errorf("the path of an error: %v", pe)
	}
}

// TestWatchOverflow does not take events until the kernel has no room for more:
// that some were lost is told, and what comes after it is seen, in directories too
// whose making nobody told of.
func TestWatchOverflow(t *testing.T) {
	limit, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	if err != nil {
		t.Skip(err)
	}
	most, err := strconv.Atoi(string(bytes.TrimSpace(limit)))
	if err != nil || most > 100_000 {
		t.Skipf("the kernel keeps %s events, %v", limit, err)
	}
	const sent = 8 << 20 // bytes that may be under way to who does not read, and more
	files := dialAgent(t, startAgent(t)).Files()
	dir := t.TempDir()
	names := [2]string{strings.Repeat("a", 255), strings.Repeat("b", 255)}
	if err := os.WriteFile(filepath.Join(dir, names[0]), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var lost, seen, late bool
	for e, err := range files.Watch(ctx, dir, &guest.WatchOptions{Recursive: true}) {
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case e.Kind == guestv1.FileEventKind_FILE_EVENT_KIND_OVERFLOW && !lost:
			lost = true
			if err := os.WriteFile(filepath.Join(dir, "late/x"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		case string(e.Path) == "late/x" && lost:
			seen = true
		case !late:
			// Nobody reads while this goes on. Each is two events to the kernel, and
			// both names in what is sent.
			for i := range most/2 + sent/(2*len(names[0])) + 1000 {
				if err := os.Rename(filepath.Join(dir, names[i%2]), filepath.Join(dir, names[(i+1)%2])); err != nil {
					t.Fatal(err)
				}
			}
			if late = true; os.Mkdir(filepath.Join(dir, "late"), 0o755) != nil {
				t.Fatal("no directory")
			}
		}
		if seen {
			break
		}
	}
	if !lost || !seen {
		t.Errorf("overflow was told: %v; what came after was seen: %v", lost, seen)
	}
}
