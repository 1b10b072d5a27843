package guest_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/guest"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// must fails the test at the first error.
func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// copyFunc is CopyTo or CopyFrom.
type copyFunc func(ctx context.Context, sources []string, destination string, opts *guest.CopyOptions) (*guest.CopyResult, error)

// bothWays runs a test with CopyTo and with CopyFrom.
func bothWays(t *testing.T, test func(t *testing.T, files *guest.Files, do copyFunc)) {
	t.Helper()
	g := dialAgent(t, startAgent(t))
	t.Run("to", func(t *testing.T) { f := g.Files(); test(t, f, f.CopyTo) })
	t.Run("from", func(t *testing.T) { f := g.Files(); test(t, f, f.CopyFrom) })
}

// TestReplacedFileStaysWhose copies over a file with an owner, a mode, attributes and an
// access control list: it has them afterwards too, small or large, and alone or in a tree.
func TestReplacedFileStaysWhose(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	// One that lets user 77 read: user::rw-, user:77:r--, group::r--, mask::r--, other::---.
	acl := []byte{2, 0, 0, 0, 1, 0, 6, 0, 0xff, 0xff, 0xff, 0xff, 2, 0, 4, 0, 77, 0, 0, 0, 4, 0, 4, 0, 0xff, 0xff, 0xff, 0xff,
		16, 0, 4, 0, 0xff, 0xff, 0xff, 0xff, 32, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}
	bothWays(t, func(t *testing.T, _ *guest.Files, do copyFunc) {
		src, dst := t.TempDir(), t.TempDir()
		big := strings.Repeat("0123456789", 50_000)
		for name, data := range map[string]string{"small": "new", "big": big} {
			old := filepath.Join(dst, name)
			must(t, os.WriteFile(filepath.Join(src, name), []byte(data), 0o755), os.WriteFile(old, []byte("old"), 0o640),
				os.Chown(old, 4242, 4343), os.Chmod(old, 0o640), unix.Setxattr(old, "user.mine", []byte("kept"), 0))
			aclErr := unix.Setxattr(old, "system.posix_acl_access", acl, 0)
			check := func(what string) {
				t.Helper()
				info, err := os.Stat(old)
				must(t, err)
				st := info.Sys().(*syscall.Stat_t)
				if st.Uid != 4242 || st.Gid != 4343 || info.Mode().Perm() != 0o640 {
					t.Errorf("%s %s: %d:%d %v, want 4242:4343 0640", name, what, st.Uid, st.Gid, info.Mode())
				}
				buf := make([]byte, 100)
				if n, err := unix.Getxattr(old, "user.mine", buf); err != nil || string(buf[:n]) != "kept" {
					t.Errorf("%s %s: attribute %q, %v", name, what, buf[:max(n, 0)], err)
				}
				if n, err := unix.Getxattr(old, "system.posix_acl_access", buf); aclErr == nil && (err != nil || string(buf[:n]) != string(acl)) {
					t.Errorf("%s %s: access control list %x, %v", name, what, buf[:max(n, 0)], err)
				}
				if got, err := os.ReadFile(old); err != nil || string(got) != data {
					t.Errorf("%s %s: has %d bytes, %v", name, what, len(got), err)
				}
			}
			_, err := do(t.Context(), []string{filepath.Join(src, name)}, old, nil)
			must(t, err)
			check("alone")
			must(t, os.Truncate(old, 1))
			_, err = do(t.Context(), []string{src + "/."}, dst, nil)
			must(t, err)
			check("in a tree")
			if _, err = do(t.Context(), []string{filepath.Join(src, name)}, old, &guest.CopyOptions{Modes: true}); err != nil {
				t.Fatal(err)
			}
			if info, err := os.Stat(old); err != nil || info.Mode().Perm() != 0o755 {
				t.Errorf("%s with the mode of the source: %v, %v", name, info.Mode(), err)
			}
			if _, err = do(t.Context(), []string{filepath.Join(src, name)}, old, &guest.CopyOptions{Archive: true}); err != nil {
				t.Fatal(err)
			}
			if info, err := os.Stat(old); err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 {
				t.Errorf("%s with the owner of the source: %+v, %v", name, info.Sys(), err)
			}
		}
	})
}

// TestReplacedAsUser replaces files of another group and owner as a user who may not set
// those: nobody gets rights by it.
func TestReplacedAsUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can act as others")
	}
	g := dialAgent(t, startAgent(t))
	dir, err := os.MkdirTemp("", "replaced")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	name, src := filepath.Join(dir, "f"), filepath.Join(t.TempDir(), "src")
	must(t, os.Chown(dir, 4242, 4343), os.WriteFile(src, []byte("new"), 0o644), os.WriteFile(name, []byte("old"), 0o660), os.Chmod(name, 0o660), os.Chown(name, 0, 0))
	files := g.Files()
	files.User, files.Group = "4242", "4343"
	_, err = files.CopyTo(t.Context(), []string{src}, name, nil)
	must(t, err)
	info, err := os.Stat(name)
	must(t, err)
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 4242 || st.Gid != 4343 || info.Mode().Perm() != 0o600 {
		t.Errorf("%d:%d %v, want 4242:4343 0600: what was root's group's is nobody's", st.Uid, st.Gid, info.Mode())
	}
}

// TestInPlace writes into a file that has two names.
func TestInPlace(t *testing.T) {
	bothWays(t, func(t *testing.T, _ *guest.Files, do copyFunc) {
		src, dst := t.TempDir(), t.TempDir()
		one, two := filepath.Join(dst, "one"), filepath.Join(dst, "two")
		must(t, os.WriteFile(filepath.Join(src, "one"), []byte("new"), 0o755), os.WriteFile(filepath.Join(src, "fresh"), []byte("fresh"), 0o755),
			os.Chtimes(filepath.Join(src, "one"), time.Unix(1e9, 0), time.Unix(1e9, 0)),
			os.WriteFile(one, []byte("old contents"), 0o640), os.Link(one, two))
		_, err := do(t.Context(), []string{src + "/."}, dst, &guest.CopyOptions{InPlace: true})
		must(t, err)
		info, err := os.Stat(two)
		must(t, err)
		if data, err := os.ReadFile(two); err != nil || string(data) != "new" || info.Mode().Perm() != 0o640 || info.Sys().(*syscall.Stat_t).Nlink != 2 || info.ModTime().Unix() != 1e9 {
			t.Errorf("the other name: %q, %v, %v %v", data, err, info.Mode(), info.ModTime())
		}
		if data, err := os.ReadFile(filepath.Join(dst, "fresh")); err != nil || string(data) != "fresh" {
			t.Errorf("the file that was not there: %q, %v", data, err)
		}
		noLeftovers(t, dst)
		if _, err := do(t.Context(), []string{src + "/."}, dst, &guest.CopyOptions{InPlace: true, Archive: true}); err == nil {
			t.Error("InPlace with Archive is no error")
		}
	})
}

// TestSpecialFileStays copies trees with a file, a link and a large file where the
// destination has FIFOs: they stay, which is told by name, and all else is copied.
func TestSpecialFileStays(t *testing.T) {
	bothWays(t, func(t *testing.T, _ *guest.Files, do copyFunc) {
		src, dst := t.TempDir(), t.TempDir()
		must(t, os.WriteFile(filepath.Join(src, "big"), make([]byte, 200_000), 0o644), os.WriteFile(filepath.Join(src, "file"), []byte("x"), 0o644),
			os.Symlink("file", filepath.Join(src, "link")), os.WriteFile(filepath.Join(src, "other"), []byte("x"), 0o644))
		for _, name := range []string{"big", "file", "link"} {
			must(t, unix.Mkfifo(filepath.Join(dst, name), 0o600))
		}
		_, err := do(t.Context(), []string{src + "/."}, dst, nil)
		ce, ok := errors.AsType[*guest.CopyError](err)
		if !ok || ce.Failed != 3 {
			t.Fatalf("%v, want three failures", err)
		}
		for _, name := range []string{"big", "file", "link"} {
			if info, err := os.Lstat(filepath.Join(dst, name)); err != nil || info.Mode().Type() != fs.ModeNamedPipe {
				t.Errorf("%s is %v, %v", name, info.Mode(), err)
			}
			named := false
			for _, f := range ce.Failures {
				named = named || strings.Contains(f.Error(), filepath.Join(dst, name)) && strings.Contains(f.Error(), "FIFO is in the way")
			}
			if !named {
				t.Errorf("no failure names %s: %q", name, ce.Failures)
			}
		}
		if _, err := os.Stat(filepath.Join(dst, "other")); err != nil {
			t.Error(err)
		}
		noLeftovers(t, dst)
	})
}

// TestFarDates copies files from long ago and of the far future, and asks for their times.
func TestFarDates(t *testing.T) {
	bothWays(t, func(t *testing.T, files *guest.Files, do copyFunc) {
		src, dst := t.TempDir(), filepath.Join(t.TempDir(), "dst")
		for _, when := range []time.Time{time.Date(1500, 1, 2, 3, 4, 5, 6, time.UTC), time.Date(1901, 12, 14, 0, 0, 0, 7, time.UTC), time.Date(2400, 1, 2, 3, 4, 5, 8, time.UTC), time.Date(2445, 1, 2, 3, 4, 5, 9, time.UTC)} {
			name := filepath.Join(src, "f")
			must(t, os.RemoveAll(dst), os.WriteFile(name, []byte("x"), 0o644))
			must(t, files.Chtimes(t.Context(), name, when, when))
			info, err := os.Stat(name)
			must(t, err)
			if !info.ModTime().Equal(when) {
				t.Logf("the file system makes %v of %v", info.ModTime(), when)
				when = info.ModTime()
			}
			if info, err := files.Stat(t.Context(), name); err != nil || !info.ModTime().Equal(when) {
				t.Errorf("stat says %v, %v, want %v", info.ModTime(), err, when)
			}
			_, err = do(t.Context(), []string{src}, dst, nil)
			must(t, err)
			if info, err = os.Stat(filepath.Join(dst, "f")); err != nil || !info.ModTime().Equal(when) {
				t.Errorf("the copy is of %v, %v, want %v", info.ModTime(), err, when)
			}
		}
	})
}

// TestLinkTimes copies a symbolic link, whose time is kept.
func TestLinkTimes(t *testing.T) {
	bothWays(t, func(t *testing.T, _ *guest.Files, do copyFunc) {
		src, dst := t.TempDir(), filepath.Join(t.TempDir(), "dst")
		link := filepath.Join(src, "link")
		when := unix.Timespec{Sec: 1e9, Nsec: 5}
		must(t, os.Symlink("nowhere", link), unix.UtimesNanoAt(unix.AT_FDCWD, link, []unix.Timespec{when, when}, unix.AT_SYMLINK_NOFOLLOW))
		_, err := do(t.Context(), []string{src}, dst, nil)
		must(t, err)
		if info, err := os.Lstat(filepath.Join(dst, "link")); err != nil || !info.ModTime().Equal(time.Unix(1e9, 5)) {
			t.Errorf("the link is of %v, %v", info.ModTime(), err)
		}
	})
}

// TestContentsOfAFile copies what is in a file, which is none: nothing is made.
func TestContentsOfAFile(t *testing.T) {
	bothWays(t, func(t *testing.T, _ *guest.Files, do copyFunc) {
		src, dst := filepath.Join(t.TempDir(), "file"), filepath.Join(t.TempDir(), "new")
		must(t, os.WriteFile(src, []byte("x"), 0o644))
		if _, err := do(t.Context(), []string{src + "/."}, dst, nil); err == nil || !strings.Contains(err.Error(), "not a directory") {
			t.Errorf("%v", err)
		}
		if _, err := os.Lstat(dst); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", dst, err)
		}
	})
}

// TestSetuidIsSaid copies programs with set-user-id and set-group-id bits.
func TestSetuidIsSaid(t *testing.T) {
	bothWays(t, func(t *testing.T, _ *guest.Files, do copyFunc) {
		src, dst := t.TempDir(), filepath.Join(t.TempDir(), "dst")
		for name, mode := range map[string]fs.FileMode{"u": fs.ModeSetuid | 0o755, "g": fs.ModeSetgid | 0o755, "none": 0o755} {
			must(t, os.WriteFile(filepath.Join(src, name), []byte(name), 0o755), os.Chmod(filepath.Join(src, name), mode))
		}
		result, err := do(t.Context(), []string{src}, dst, nil)
		if err != nil || result.SetuidDropped != 2 {
			t.Errorf("%+v, %v, want 2 files without their bits", result, err)
		}
		result, err = do(t.Context(), []string{src}, dst+"2", &guest.CopyOptions{KeepSetuid: true})
		if err != nil || result.SetuidDropped != 0 {
			t.Errorf("%+v, %v, want none", result, err)
		}
	})
}

// TestNoReplaceAndExclude leaves out what is there, and what matches a pattern.
func TestNoReplaceAndExclude(t *testing.T) {
	bothWays(t, func(t *testing.T, _ *guest.Files, do copyFunc) {
		src, dst := t.TempDir(), t.TempDir()
		must(t, os.MkdirAll(filepath.Join(src, "d/deep"), 0o755), os.WriteFile(filepath.Join(src, "d/deep/x.o"), nil, 0o644), os.WriteFile(filepath.Join(src, "d/x.c"), []byte("c"), 0o644),
			os.WriteFile(filepath.Join(src, "there"), []byte("new"), 0o644), os.WriteFile(filepath.Join(dst, "there"), []byte("old"), 0o644), os.Mkdir(filepath.Join(src, "d/skip"), 0o755))
		result, err := do(t.Context(), []string{src + "/."}, dst, &guest.CopyOptions{NoReplace: true, Exclude: []string{"*.o", "d/skip"}})
		must(t, err)
		if result.Files != 1 || result.Skipped != 1 {
			t.Errorf("%+v, want one file made and one skipped", result)
		}
		var got []string
		for name := range readTree(t, dst) {
			got = append(got, name)
		}
		if data, err := os.ReadFile(filepath.Join(dst, "there")); err != nil || string(data) != "old" || len(got) != 4 {
			t.Errorf("there is %q, %v; %q", data, err, got)
		}
		if _, err := do(t.Context(), []string{src + "/."}, dst, &guest.CopyOptions{Exclude: []string{"["}}); err == nil {
			t.Error("a bad pattern is no error")
		}
	})
}

// TestCopyOfAPipe copies a pipe by its name in /proc and by a link to that: as a file.
func TestCopyOfAPipe(t *testing.T) {
	g := dialAgent(t, startAgent(t))
	dir := t.TempDir()
	for _, size := range []int{0, 5, 300_000} {
		for _, link := range []bool{false, true} {
			r, w, err := os.Pipe()
			must(t, err)
			data := strings.Repeat("x", size)
			go func() {
				w.WriteString(data)
				w.Close()
			}()
			name := "/proc/self/fd/" + strconv.Itoa(int(r.Fd()))
			if link {
				name = filepath.Join(dir, "link")
				os.Remove(name)
				must(t, os.Symlink("/proc/self/fd/"+strconv.Itoa(int(r.Fd())), name))
			}
			dst := filepath.Join(dir, "dst")
			if _, err := g.Files().CopyTo(t.Context(), []string{name}, dst, nil); err != nil {
				t.Fatal(err)
			}
			r.Close()
			if info, err := os.Lstat(dst); err != nil || !info.Mode().IsRegular() || info.Size() != int64(size) {
				t.Errorf("%d bytes, link %v: %v, %v", size, link, info, err)
			}
		}
	}
	null, err := os.Open("/dev/null")
	must(t, err)
	defer null.Close()
	if _, err := g.Files().CopyTo(t.Context(), []string{"/proc/self/fd/" + strconv.Itoa(int(null.Fd()))}, filepath.Join(dir, "null"), nil); err == nil {
		t.Error("a link to a device was copied")
	}
	if _, err := os.Lstat(filepath.Join(dir, "null")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("null: %v", err)
	}
}

// TestManyPatterns has the SDK, and the agent of one that does not look, refuse more
// patterns than may be.
func TestManyPatterns(t *testing.T) {
	g := dialAgent(t, startAgent(t))
	many := make([]string, 1001)
	for i := range many {
		many[i] = "x"
	}
	if _, err := g.Files().CopyTo(t.Context(), []string{t.TempDir()}, t.TempDir(), &guest.CopyOptions{Exclude: many}); err == nil {
		t.Error("the SDK takes 1001 patterns")
	}
	patterns := make([][]byte, 1001)
	st, err := guestv1.NewFileServiceClient(g.Conn()).Download(t.Context())
	must(t, err)
	must(t, st.Send(&guestv1.DownloadRequest{Message: &guestv1.DownloadRequest_Open{Open: &guestv1.DownloadOpen{
		TransferId: make([]byte, 16), Sources: []*guestv1.Source{{Path: []byte(t.TempDir())}}, Options: &guestv1.TransferOptions{Exclude: patterns}}}}))
	if _, err := st.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("the agent: %v, want InvalidArgument", err)
	}
}
