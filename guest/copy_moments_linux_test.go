package guest_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/guest"
	"github.com/vsockrpc/vsockrpc/internal/archive"
)

// copyWays are the two ways of a copy.
var copyWays = []struct {
	name string
	copy func(f *guest.Files, ctx context.Context, sources []string, destination string, opts *guest.CopyOptions) (*guest.CopyResult, error)
}{{"to", (*guest.Files).CopyTo}, {"from", (*guest.Files).CopyFrom}}

// wantFailure fails the test unless err is that of a copy in which one file
// failed, for a reason.
func wantFailure(t *testing.T, err error, reason string) {
	t.Helper()
	partial, ok := errors.AsType[*guest.CopyError](err)
	if !ok || partial.Failed != 1 || len(partial.Failures) != 1 {
		t.Fatalf("got %v, want that one file failed", err)
	}
	got := ""
	if e, ok := errors.AsType[*guest.Error](partial.Failures[0]); ok {
		got = e.Reason
	} else if f, ok := errors.AsType[*archive.Failure](partial.Failures[0]); ok {
		got = f.Reason
	}
	if got != reason {
		t.Errorf("got %v (%s), want reason %s", partial.Failures[0], got, reason)
	}
}

// TestCopyOfWhatChanges changes files in the midst of a copy of them: what cannot
// be copied as one is reported, never half of it left, and all else copied.
func TestCopyOfWhatChanges(t *testing.T) {
	g := dialAgent(t, startAgent(t))
	const size = 24 << 20 // more than is under way at once
	for _, tt := range []struct {
		name   string
		change func(src string) error
		reason string
		big    bool // is at the destination
		last   bool
	}{
		{"grows", func(src string) error {
			f, err := os.OpenFile(src+"/big", os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString("more")
			return errors.Join(err, f.Close())
		}, "file-changed", true, true},
		{"shrinks", func(src string) error { return os.Truncate(src+"/big", 1000) }, "file-changed", false, true},
		{"becomes empty", func(src string) error { return os.Truncate(src+"/big", 0) }, "file-changed", false, true},
		{"is removed while it is open", func(src string) error { return os.Remove(src + "/big") }, "", true, true},
		{"another file vanishes", func(src string) error { return os.Remove(src + "/last") }, "not-found", true, false},
		{"another file becomes a FIFO", func(src string) error {
			return errors.Join(os.Remove(src+"/last"), unix.Mkfifo(src+"/last", 0o600))
		}, "special-file", true, false},
	} {
		for _, way := range copyWays {
			t.Run(tt.name+"/"+way.name, func(t *testing.T) {
				dir := t.TempDir()
				src, dst := dir+"/src", dir+"/dst"
				if err := os.Mkdir(src, 0o755); err != nil {
					t.Fatal(err)
				}
				randomFile(t, src+"/big", size)
				if err := os.WriteFile(src+"/last", []byte("last"), 0o644); err != nil {
					t.Fatal(err)
				}
				var once sync.Once
				_, err := way.copy(g.Files(), t.Context(), []string{src + "/."}, dst, &guest.CopyOptions{Sync: guest.SyncNone, Progress: func(p guest.CopyProgress) {
					if p.Bytes > 0 {
						once.Do(func() {
							if err := tt.change(src); err != nil {
								t.Error(err)
							}
						})
					}
				}})
				if tt.reason != "" {
					wantFailure(t, err, tt.reason)
					if tt.name == "grows" && (!strings.Contains(err.Error(), "big: it changed while it was read: its size or time") || guest.Remedy(err) == "") {
						t.Errorf("%v, remedy %q", err, guest.Remedy(err))
					}
				} else if err != nil {
					t.Error(err)
				}
				if info, err := os.Stat(dst + "/big"); tt.big != (err == nil) || tt.big && info.Size() != size {
					t.Errorf("the big file is %v, %v", info, err)
				}
				if data, err := os.ReadFile(dst + "/last"); tt.last != (err == nil) || tt.last && string(data) != "last" {
					t.Errorf("the last file is %q, %v", data, err)
				}
				noLeftovers(t, dst)
			})
		}
	}
}

// TestReadOfWhatChanges changes a file while it is read: what is read is what
// there was, up to the end that there is.
func TestReadOfWhatChanges(t *testing.T) {
	g := dialAgent(t, startAgent(t))
	const size = 24 << 20
	for name, tt := range map[string]struct {
		change func(name string) error
		check  func(n int) bool
	}{
		"shrinks":    {func(name string) error { return os.Truncate(name, 10) }, func(n int) bool { return n > 10 && n < size }},
		"is removed": {os.Remove, func(n int) bool { return n == size }},
		"grows":      {func(name string) error { return os.Truncate(name, size+1000) }, func(n int) bool { return n == size+1000 }},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "f")
			if err := os.WriteFile(file, make([]byte, size), 0o600); err != nil {
				t.Fatal(err)
			}
			w := &changingWriter{change: func() error { return tt.change(file) }}
			if err := g.Files().CopyRange(t.Context(), w, file, 0, 0); err != nil || !tt.check(w.n) {
				t.Errorf("read %d bytes, %v", w.n, err)
			}
		})
	}
}

// changingWriter does something when the first bytes come.
type changingWriter struct {
	change func() error
	n      int
}

func (w *changingWriter) Write(p []byte) (int, error) {
	if w.n == 0 {
		if err := w.change(); err != nil {
			return 0, err
		}
	}
	w.n += len(p)
	return len(p), nil
}

// TestListOfWhatChanges lists a tree in which files and directories come and go:
// all that stays is there, and none of the rest an error.
func TestListOfWhatChanges(t *testing.T) {
	g := dialAgent(t, startAgent(t))
	dir := t.TempDir()
	stay := make(map[string]bool)
	for _, d := range []string{"a", "b", "c"} {
		for _, f := range []string{"1", "2", "3"} {
			name := d + "/" + f + "/stays"
			if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
				t.Fatal(err)
			}
			stay[name] = true
		}
	}
	done := make(chan struct{})
	var changer sync.WaitGroup
	changer.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			for name := range stay {
				comes := filepath.Join(dir, filepath.Dir(name), "comes")
				if err := errors.Join(os.MkdirAll(comes+"/below/it", 0o755), os.RemoveAll(comes)); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	for range 50 {
		found := 0
		for info, err := range g.Files().List(t.Context(), dir, &guest.ListOptions{Depth: 9}) {
			// A directory that is removed while it is read may say so.
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
			if err == nil && stay[info.Path()] {
				found++
			}
		}
		if found != len(stay) {
			t.Errorf("%d of %d directories are in the list", found, len(stay))
		}
		if m, err := g.Files().DiskUsage(t.Context(), dir); err != nil || m.Directories < uint64(len(stay)) {
			t.Errorf("DiskUsage: %v, %v", m, err)
		}
	}
	close(done)
	changer.Wait()
}

// TestCopySpecials copies a tree with files of every kind, and names as long and
// as deep as can be.
func TestCopySpecials(t *testing.T) {
	g := dialAgent(t, startAgent(t))
	for _, way := range copyWays {
		t.Run(way.name, func(t *testing.T) {
			dir := t.TempDir()
			src, dst := dir+"/src", dir+"/dst"
			longest := strings.Repeat("n", 255)
			odd := "\xff\xfe\x01\n\x1b[2J \u202e"
			if err := errors.Join(os.MkdirAll(src+"/d", 0o755), unix.Mkfifo(src+"/d/fifo", 0o600),
				os.WriteFile(src+"/"+longest, []byte("long"), 0o600), os.WriteFile(src+"/"+odd, []byte("odd"), 0o600),
				os.WriteFile(src+"/d/z", []byte("z"), 0o600)); err != nil {
				t.Fatal(err)
			}
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			t.Chdir(src) // the path of a socket is short
			if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "d/socket"}); err != nil {
				t.Fatal(err)
			}
			_, err = way.copy(g.Files(), t.Context(), []string{src + "/."}, dst, nil)
			partial, ok := errors.AsType[*guest.CopyError](err)
			if !ok || partial.Failed != 2 {
				t.Errorf("got %v, want two failures", err)
			}
			for name, want := range map[string]string{longest: "long", odd: "odd", "d/z": "z"} {
				if data, err := os.ReadFile(dst + "/" + name); err != nil || string(data) != want {
					t.Errorf("%q: %q, %v", name, data, err)
				}
			}
			for _, name := range []string{"d/fifo", "d/socket"} {
				if _, err := os.Lstat(dst + "/" + name); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s is there: %v", name, err)
				}
			}
		})
		t.Run(way.name+" too deep", func(t *testing.T) {
			dir := t.TempDir()
			src, dst := dir+"/src", dir+"/dst"
			if err := errors.Join(os.MkdirAll(src+strings.Repeat("/d", 257), 0o755), os.WriteFile(src+"/z", []byte("z"), 0o600)); err != nil {
				t.Fatal(err)
			}
			_, err := way.copy(g.Files(), t.Context(), []string{src + "/."}, dst, nil)
			wantFailure(t, err, "too-deep")
			if data, err := os.ReadFile(dst + "/z"); err != nil || string(data) != "z" {
				t.Errorf("the rest: %q, %v", data, err)
			}
			if _, err := os.Stat(dst + strings.Repeat("/d", 256)); err != nil {
				t.Error(err)
			}
		})
	}
	// What reads or writes one file refuses the rest, and never waits for it.
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{fifo, "/dev/null", "/dev/zero"} {
		_, openErr := g.Files().Open(t.Context(), name)
		_, createErr := g.Files().Create(t.Context(), name)
		_, readErr := g.Files().ReadFile(t.Context(), name, 0)
		_, _, hashErr := g.Files().Hash(t.Context(), name, 0, 0)
		_, fromErr := g.Files().CopyFrom(t.Context(), []string{name}, filepath.Join(t.TempDir(), "to"), nil)
		_, toErr := g.Files().CopyTo(t.Context(), []string{os.Args[0]}, name, nil)
		for what, err := range map[string]error{"open": openErr, "create": createErr, "read": readErr, "hash": hashErr, "truncate": g.Files().Truncate(t.Context(), name, 0), "copy from": fromErr, "copy to": toErr} {
			if e, ok := errors.AsType[*guest.Error](err); !ok || e.Reason != "special-file" {
				t.Errorf("%s %s: %v", what, name, err)
			}
		}
	}
}

// TestReadOnly has every call that writes meet a file system that is read-only.
func TestReadOnly(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("to mount needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("no tmpfs here: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	if err := errors.Join(os.WriteFile(dir+"/f", []byte("f"), 0o644), os.Mkdir(dir+"/d", 0o755), unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")); err != nil {
		t.Fatal(err)
	}
	g := dialAgent(t, startAgent(t))
	f, ctx := g.Files(), t.Context()
	_, createErr := f.Create(ctx, dir+"/new")
	_, tempErr := f.CreateTemp(ctx, dir, "")
	_, copyErr := f.CopyTo(ctx, []string{os.Args[0]}, dir+"/new", nil)
	_, overErr := f.CopyTo(ctx, []string{os.Args[0]}, dir+"/f", nil)
	for what, err := range map[string]error{
		"create": createErr, "mktemp": tempErr, "copy": copyErr, "copy over": overErr,
		"mkdir": f.Mkdir(ctx, dir+"/n", 0o755), "rm": f.Remove(ctx, dir+"/f"), "rm -r": f.RemoveAll(ctx, dir+"/d"), "mv": f.Rename(ctx, dir+"/f", dir+"/g"),
		"chmod": f.Chmod(ctx, dir+"/f", 0o600), "truncate": f.Truncate(ctx, dir+"/f", 0), "symlink": f.Symlink(ctx, "x", dir+"/l"),
		"link": f.Link(ctx, dir+"/f", dir+"/l"), "setxattr": f.SetXattr(ctx, dir+"/f", "user.x", []byte("x")),
	} {
		e, ok := errors.AsType[*guest.Error](err)
		if !ok || e.Reason != "read-only" || syscall.Errno(e.Errno) != syscall.EROFS || len(e.Path) == 0 {
			t.Errorf("%s: %v", what, err)
		}
	}
	if df, err := f.DiskFree(ctx, dir); err != nil || !df.ReadOnly || string(df.MountPoint) != dir {
		t.Errorf("DiskFree: %v, %v", df, err)
	}
	// Another file system, and one that is in use.
	e, ok := errors.AsType[*guest.Error](f.Rename(ctx, os.Args[0], dir+"/moved"))
	if !ok || e.Reason != "unsupported" || syscall.Errno(e.Errno) != syscall.EXDEV {
		t.Errorf("mv to another file system: %v", e)
	}
	if e, ok := errors.AsType[*guest.Error](f.Remove(ctx, dir)); !ok || e.Reason != "busy" && e.Reason != "not-empty" {
		t.Errorf("rm of a mount point: %v", e)
	}
}

// TestFileLimits has a copy meet the limit on a file's size, and a user's quota
// where the kernel has such a thing for tmpfs: each has its answer, and the old
// file stays.
func TestFileLimits(t *testing.T) {
	t.Run("size", func(t *testing.T) {
		dir, err := os.MkdirTemp("", "limit") // a short path, for a socket
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		t.Setenv(asHelper+"_FSIZE", "1000000")
		helper(t, "TestHelperAgent", dir, false)
		awaitAgent(t, dir)
		limited(t, dialAgent(t, "unix:"+filepath.Join(dir, "agent.sock")).Files(), dir, syscall.EFBIG, "file-too-large")
	})
	t.Run("quota", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("to mount needs root")
		}
		dir := t.TempDir()
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16m,mode=1777,usrquota,usrquota_block_hardlimit=1m"); err != nil {
			t.Skipf("no tmpfs with quotas here: %v", err)
		}
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
		files := dialAgent(t, startAgent(t)).Files()
		files.User = "4242"
		limited(t, files, dir, syscall.EDQUOT, "disk-full")
	})
}

// limited copies a file to dir that is too large, and one that is not.
func limited(t *testing.T, files *guest.Files, dir string, errno syscall.Errno, reason string) {
	t.Helper()
	src := t.TempDir()
	randomFile(t, src+"/big", 4<<20)
	if err := os.WriteFile(src+"/small", []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := files.CopyTo(t.Context(), []string{src + "/small"}, dir+"/to", nil); err != nil {
		t.Fatal(err)
	}
	check := func(what string, err error) {
		t.Helper()
		if e, ok := errors.AsType[*guest.Error](err); !ok || e.Reason != reason || syscall.Errno(e.Errno) != errno {
			t.Errorf("%s: %v, want %v", what, err, errno)
		}
		if data, err := os.ReadFile(dir + "/to"); err != nil || string(data) != "old" {
			t.Errorf("%s: the old file is %.20q, %v", what, data, err)
		}
		noLeftovers(t, dir)
	}
	_, err := files.CopyTo(t.Context(), []string{src + "/big"}, dir+"/to", nil)
	if partial, ok := errors.AsType[*guest.CopyError](err); ok && len(partial.Failures) == 1 {
		err = partial.Failures[0]
	}
	check("copy", err)
	f, err := files.Create(t.Context(), dir+"/written")
	if err != nil {
		t.Fatal(err)
	}
	n, err := f.Write(bytes.Repeat([]byte("x"), 4<<20))
	check("write", err)
	info, statErr := f.Stat()
	if statErr != nil || info.Size() != int64(n) || n == 0 || n == 4<<20 {
		t.Errorf("%d bytes were written, the file has %v, %v", n, info, statErr)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}
