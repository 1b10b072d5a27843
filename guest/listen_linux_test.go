package guest_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/vsockrpc/vsockrpc/guest"
)

// TestListenSocketFile: the socket made in the guest has the mode and the owner that were
// asked for, whatever the agent's umask, in directories that are not the owner's too.
func TestListenSocketFile(t *testing.T) {
	g := dialAgent(t, startAgent(t))
	dir := t.TempDir()
	owner, group := strconv.Itoa(os.Getuid()), strconv.Itoa(os.Getgid())
	if os.Getuid() == 0 {
		owner, group = "65534", "12345"
	}
	old := syscall.Umask(0o022)
	defer syscall.Umask(old)
	for name, tt := range map[string]struct {
		opts *guest.ListenOptions
		mode fs.FileMode
	}{
		"default":    {nil, 0o755},
		"open":       {&guest.ListenOptions{Mode: new(fs.FileMode(0o666))}, 0o666},
		"closed":     {&guest.ListenOptions{Mode: new(fs.FileMode(0))}, 0},
		"owner":      {&guest.ListenOptions{User: owner, Group: group}, 0o755},
		"group only": {&guest.ListenOptions{Mode: new(fs.FileMode(0o660)), Group: group}, 0o660},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			l, err := g.ListenWith(t.Context(), "unix", path, tt.opts)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			fi, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			st := fi.Sys().(*syscall.Stat_t)
			wantUID, wantGID := os.Getuid(), os.Getgid()
			if tt.opts != nil && tt.opts.User != "" {
				wantUID, _ = strconv.Atoi(owner)
			}
			if tt.opts != nil && tt.opts.Group != "" {
				wantGID, _ = strconv.Atoi(group)
			}
			if fi.Mode().Perm() != tt.mode || int(st.Uid) != wantUID || int(st.Gid) != wantGID {
				t.Errorf("%v, %d:%d; want %v, %d:%d", fi.Mode(), st.Uid, st.Gid, tt.mode, wantUID, wantGID)
			}
			if mask := syscall.Umask(0o022); mask != 0o022 {
				t.Errorf("the process's umask is now %#o", mask)
			}
			accepted := make(chan error, 1)
			go func() {
				conn, err := l.Accept()
				if err == nil {
					conn.Close()
				}
				accepted <- err
			}()
			if tt.mode&0o200 == 0 && os.Getuid() != 0 {
				return
			}
			conn, err := g.DialContext(t.Context(), "unix", path)
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			if err := <-accepted; err != nil {
				t.Error(err)
			}
		})
	}
	for reason, opts := range map[string]*guest.ListenOptions{
		guest.ReasonBadAddress:  {Mode: new(fs.FileMode(0o1777))},
		guest.ReasonNoSuchUser:  {User: "no-such-user"},
		guest.ReasonNoSuchGroup: {Group: "no-such-group"},
	} {
		_, err := g.ListenWith(t.Context(), "unix", filepath.Join(dir, "bad"), opts)
		if e := guest.FromError(err); e == nil || e.Reason != reason {
			t.Errorf("%+v: %v, want %s", opts, err, reason)
		}
	}
	_, err := g.ListenWith(t.Context(), "tcp", "127.0.0.1:0", &guest.ListenOptions{User: owner})
	if e := guest.FromError(err); e == nil || e.Reason != guest.ReasonBadAddress {
		t.Errorf("the owner of a TCP port: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "bad")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a socket that was refused: %v", err)
	}
}
