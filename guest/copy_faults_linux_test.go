package guest_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/guest"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestBadMoments has each thing that may go wrong with a file answered exactly,
// and nothing half-written left behind.
func TestBadMoments(t *testing.T) {
	g := dialAgent(t, startAgent(t))
	ctx := t.Context()
	write := func(t *testing.T, name, text string) string {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return name
	}
	tests := []struct {
		name   string
		run    func(t *testing.T, dir string) error
		reason string // of the guest
		errno  syscall.Errno
		text   string // in a failure of this machine
	}{
		{name: "no such file", reason: "not-found", errno: syscall.ENOENT, run: func(t *testing.T, dir string) error {
			_, err := g.Files().CopyFrom(ctx, []string{dir + "/none"}, dir+"/to", nil)
			return err
		}},
		{name: "no such directory", reason: "not-found", errno: syscall.ENOENT, run: func(t *testing.T, dir string) error {
			_, err := g.Files().CopyTo(ctx, []string{write(t, dir+"/f", "x")}, dir+"/none/to", nil)
			return err
		}},
		{name: "source is a FIFO", reason: "special-file", run: func(t *testing.T, dir string) error {
			if err := unix.Mkfifo(dir+"/fifo", 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := g.Files().CopyFrom(ctx, []string{dir + "/fifo"}, dir+"/to", nil)
			return err
		}},
		{name: "destination is a FIFO", reason: "special-file", run: func(t *testing.T, dir string) error {
			if err := unix.Mkfifo(dir+"/fifo", 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := g.Files().CopyTo(ctx, []string{write(t, dir+"/f", "x")}, dir+"/fifo", nil)
			return err
		}},
		{name: "read of a FIFO", reason: "special-file", run: func(t *testing.T, dir string) error {
			if err := unix.Mkfifo(dir+"/fifo", 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := g.Files().ReadFile(ctx, dir+"/fifo", 0)
			return err
		}},
		{name: "destination is a device", reason: "special-file", run: func(t *testing.T, dir string) error {
			_, err := g.Files().CopyTo(ctx, []string{write(t, dir+"/f", "x")}, "/dev/null", nil)
			return err
		}},
		{name: "name too long", reason: "name-too-long", errno: syscall.ENAMETOOLONG, run: func(t *testing.T, dir string) error {
			return g.Files().Mkdir(ctx, dir+"/"+strings.Repeat("n", 300), 0o755)
		}},
		{name: "file over directory", reason: "is-a-directory", run: func(t *testing.T, dir string) error {
			if err := os.MkdirAll(dir+"/to/f", 0o755); err != nil {
				t.Fatal(err)
			}
			_, err := g.Files().CopyTo(ctx, []string{write(t, dir+"/f", "x")}, dir+"/to/", nil)
			return err
		}},
		{name: "directory over file", reason: "not-a-directory", run: func(t *testing.T, dir string) error {
			if err := errors.Join(os.MkdirAll(dir+"/d/sub", 0o755), os.Mkdir(dir+"/to", 0o755)); err != nil {
				t.Fatal(err)
			}
			write(t, dir+"/to/d", "x")
			_, err := g.Files().CopyTo(ctx, []string{dir + "/d"}, dir+"/to", nil)
			return err
		}},
		{name: "several into a file", reason: "not-a-directory", run: func(t *testing.T, dir string) error {
			_, err := g.Files().CopyTo(ctx, []string{write(t, dir+"/f", "x"), write(t, dir+"/g", "x")}, write(t, dir+"/to", "x"), nil)
			return err
		}},
		{name: "two with one name", reason: "name-collision", run: func(t *testing.T, dir string) error {
			if err := errors.Join(os.Mkdir(dir+"/a", 0o755), os.Mkdir(dir+"/b", 0o755)); err != nil {
				t.Fatal(err)
			}
			_, err := g.Files().CopyTo(ctx, []string{write(t, dir+"/a/f", "x"), write(t, dir+"/b/f", "x")}, dir, nil)
			return err
		}},
		{name: "zero byte", errno: syscall.EINVAL, reason: "failed", run: func(t *testing.T, dir string) error {
			_, err := g.Files().Stat(ctx, dir+"/a\x00b")
			return err
		}},
		{name: "no such user", reason: "no-such-user", run: func(t *testing.T, dir string) error {
			f := g.Files()
			f.User = "nobody-has-this-name"
			_, err := f.Stat(ctx, dir)
			return err
		}},
		{name: "not empty", reason: "not-empty", errno: syscall.ENOTEMPTY, run: func(t *testing.T, dir string) error {
			if err := os.MkdirAll(dir+"/d/e", 0o755); err != nil {
				t.Fatal(err)
			}
			return g.Files().Remove(ctx, dir+"/d")
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			err := tt.run(t, dir)
			e, ok := errors.AsType[*guest.Error](err)
			if !ok || e.Reason != tt.reason || syscall.Errno(e.Errno) != tt.errno && tt.errno != 0 {
				t.Errorf("got %#v (%v), want reason %s, errno %v", e, err, tt.reason, tt.errno)
			}
			if tt.errno == syscall.ENOENT && !errors.Is(err, fs.ErrNotExist) {
				t.Error("it is not fs.ErrNotExist")
			}
			noLeftovers(t, dir)
			noLeftovers(t, filepath.Join(dir, "to"))
		})
	}
}

// TestProcFiles reads files that claim to have no bytes.
func TestProcFiles(t *testing.T) {
	g := dialAgent(t, startAgent(t))
	data, err := g.Files().ReadFile(t.Context(), "/proc/cpuinfo", 0)
	if err != nil || len(data) == 0 {
		t.Errorf("read %d bytes, %v", len(data), err)
	}
	dst := filepath.Join(t.TempDir(), "cpuinfo")
	if _, err := g.Files().CopyFrom(t.Context(), []string{"/proc/cpuinfo"}, dst, nil); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dst); err != nil || info.Size() == 0 {
		t.Errorf("copied %v, %v", info, err)
	}
}

// TestDiskFull fills a small file system, both ways of sending contents.
func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a small file system needs root")
	}
	dir := t.TempDir()
	small := filepath.Join(dir, "small")
	if err := os.Mkdir(small, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("no tmpfs here: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(small, unix.MNT_DETACH) })
	g := dialAgent(t, startAgent(t))
	big := filepath.Join(dir, "big")
	randomFile(t, big, 4<<20)
	if err := os.WriteFile(filepath.Join(small, "to"), []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_, err := g.Files().CopyTo(t.Context(), []string{big}, filepath.Join(small, "to"), nil)
		e, ok := errors.AsType[*guest.Error](err)
		if !ok || e.Reason != "disk-full" || syscall.Errno(e.Errno) != syscall.ENOSPC || !strings.Contains(e.Message(), "bytes)") {
			t.Fatalf("got %v", err)
		}
		if data, err := os.ReadFile(filepath.Join(small, "to")); err != nil || string(data) != "old" {
			t.Errorf("the old file is %q, %v", data, err)
		}
		noLeftovers(t, small)
	}
	if _, err := g.Files().CopyFrom(t.Context(), []string{big}, filepath.Join(small, "from"), nil); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("from the guest: %v", err)
	}
	noLeftovers(t, small)
	if err := unix.Mount("", small, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	_, err := g.Files().CopyTo(t.Context(), []string{big}, filepath.Join(small, "ro"), nil)
	if e, ok := errors.AsType[*guest.Error](err); !ok || e.Reason != "read-only" {
		t.Errorf("read-only: %v", err)
	}
}

// TestAsUser has the guest act as another user, with no more than that user's
// rights, and goes back to root's.
func TestAsUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can act as others")
	}
	g := dialAgent(t, startAgent(t))
	base, err := os.MkdirTemp("", "as")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	open, closed := filepath.Join(base, "open"), filepath.Join(base, "closed")
	secret := filepath.Join(closed, "secret")
	for _, err := range []error{os.Chmod(base, 0o755), os.Mkdir(open, 0o755), os.Chmod(open, 0o777), os.Mkdir(closed, 0o700), os.WriteFile(secret, []byte("secret"), 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	user := g.Files()
	user.User, user.Group = "4242", "4343"
	src := makeTree(t)
	if _, err := user.CopyTo(t.Context(), []string{src}, filepath.Join(open, "tree"), nil); err != nil {
		t.Fatal(err)
	}
	info, err := user.Stat(t.Context(), filepath.Join(open, "tree", "big"))
	if err != nil || info.Sys().(*guestv1.FileInfo).Uid != 4242 || info.Sys().(*guestv1.FileInfo).Gid != 4343 {
		t.Errorf("the copy is %+v, %v", info.Sys(), err)
	}
	if _, err := user.ReadFile(t.Context(), secret, 0); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("read what is root's: %v", err)
	}
	if _, err := user.CopyFrom(t.Context(), []string{secret}, filepath.Join(t.TempDir(), "x"), nil); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("copy what is root's: %v", err)
	}
	if _, err := user.CopyTo(t.Context(), []string{filepath.Join(src, "big")}, filepath.Join(closed, "x"), nil); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("write where root alone may: %v", err)
	}
	if data, err := g.Files().ReadFile(t.Context(), secret, 0); err != nil || string(data) != "secret" {
		t.Errorf("as root again: %q, %v", data, err)
	}
	os.Chmod(filepath.Join(open, "tree/a/b/c"), 0o755)
}
