package file

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/agent/internal/charge"
	"github.com/vsockrpc/vsockrpc/agent/internal/fault"
	"github.com/vsockrpc/vsockrpc/internal/hostile"
	"github.com/vsockrpc/vsockrpc/internal/wait"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// patience bounds every wait of these tests.
const patience = time.Minute

// someUser is one that has nothing else on this machine.
var someUser = 1<<30 + os.Getpid()

// nowhere is a stream whose messages are thrown away.
type nowhere[M any] struct {
	grpc.ServerStream
	ctx context.Context
}

func (s nowhere[M]) Context() context.Context { return s.ctx }
func (s nowhere[M]) Send(*M) error            { return nil }
func (s nowhere[M]) SendMsg(any) error        { return nil }

// calls are those that look at a file.
func calls(s *Server, who *guestv1.Subject, path []byte) map[string]func(context.Context) error {
	below := append(path[:len(path):len(path)], "/x"...)
	return map[string]func(context.Context) error{
		"stat": func(ctx context.Context) error {
			_, err := s.Stat(ctx, &guestv1.StatRequest{Subject: who, Path: below})
			return err
		},
		"mkdir": func(ctx context.Context) error {
			_, err := s.MakeDirectory(ctx, &guestv1.MakeDirectoryRequest{Subject: who, Path: below})
			return err
		},
		"remove": func(ctx context.Context) error {
			_, err := s.RemoveFile(ctx, &guestv1.RemoveFileRequest{Subject: who, Path: below})
			return err
		},
		"rename": func(ctx context.Context) error {
			_, err := s.Rename(ctx, &guestv1.RenameRequest{Subject: who, Path: below, NewPath: append(below, 'y')})
			return err
		},
		"chmod": func(ctx context.Context) error {
			_, err := s.SetAttributes(ctx, &guestv1.SetAttributesRequest{Subject: who, Path: below, Mode: new(uint32(0))})
			return err
		},
		"mktemp": func(ctx context.Context) error {
			_, err := s.MakeTemporary(ctx, &guestv1.MakeTemporaryRequest{Subject: who, Directory: path})
			return err
		},
		"hash": func(ctx context.Context) error {
			_, err := s.Hash(ctx, &guestv1.HashRequest{Subject: who, Path: below})
			return err
		},
		"df": func(ctx context.Context) error {
			_, err := s.DiskFree(ctx, &guestv1.DiskFreeRequest{Subject: who, Path: below})
			return err
		},
		"xattrs": func(ctx context.Context) error {
			_, err := s.ListXattrs(ctx, &guestv1.ListXattrsRequest{Subject: who, Path: below})
			return err
		},
		"list": func(ctx context.Context) error {
			return s.List(&guestv1.ListRequest{Subject: who, Path: below}, nowhere[guestv1.ListResponse]{ctx: ctx})
		},
		"read": func(ctx context.Context) error {
			return s.Read(&guestv1.ReadRequest{Subject: who, Path: below}, nowhere[guestv1.ReadResponse]{ctx: ctx})
		},
		"watch": func(ctx context.Context) error {
			return s.Watch(&guestv1.WatchRequest{Subject: who, Path: below}, nowhere[guestv1.WatchResponse]{ctx: ctx})
		},
	}
}

func newServer(t *testing.T) *Server {
	t.Helper()
	s, err := NewServer(&Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// hung returns a directory on a file system of someUser's that does not answer.
func hung(t *testing.T, others bool) (string, *hostile.HungFS) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	for d := dir; d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	fs, err := hostile.MountHung(dir, someUser, someUser, others)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := fs.Close(); err != nil {
			t.Error(err)
		}
	})
	return dir, fs
}

func as(user any) *guestv1.Subject { return &guestv1.Subject{User: fmt.Append(nil, user)} }

// TestOwnFUSE: calls for a user do not wait for a file system that this user has
// mounted for nobody else, since the kernel does not let them in; nor do root's.
func TestOwnFUSE(t *testing.T) {
	dir, fs := hung(t, false)
	s := newServer(t)
	for _, who := range []*guestv1.Subject{as(someUser), as(0)} {
		for name, call := range calls(s, who, []byte(dir)) {
			if err := call(t.Context()); !errors.Is(err, unix.EACCES) {
				t.Errorf("%s as %s: %v, want EACCES", name, who.User, err)
			}
		}
	}
	if n := fs.Requests(); n != 0 {
		t.Errorf("the file system was asked %d times", n)
	}
}

// TestSharedFUSE: a call on a file system that lets everybody in and answers nobody
// ends with its context, whoever it acts as.
func TestSharedFUSE(t *testing.T) {
	dir, fs := hung(t, true)
	s := newServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	n := 0
	for _, who := range []*guestv1.Subject{as(someUser), as(0)} {
		for name, call := range calls(s, who, []byte(dir)) {
			n++
			wg.Go(func() {
				err := call(ctx)
				if f, ok := errors.AsType[*fault.Error](err); !ok || f.Reason() != reasonHangs || f.Code() != codes.Canceled {
					t.Errorf("%s as %s: %v, want %s", name, who.User, err, reasonHangs)
				}
			})
		}
	}
	<-fs.Asked()
	cancel()
	wg.Wait()
	for _, who := range []*guestv1.Subject{as(54999), as(0)} {
		if _, err := s.Stat(t.Context(), &guestv1.StatRequest{Subject: who, Path: []byte("/")}); err != nil {
			t.Errorf("as %s, besides: %v", who.User, err)
		}
	}
	if calls, left := s.open(); calls != n || left != n {
		t.Errorf("%d calls, %d of them left behind; want %d", calls, left, n)
	}
	fs.End()
	wait.For(t, "the places of calls that were left behind", func() bool {
		calls, left := s.open()
		return calls == 0 && left == 0
	})
}

func (s *Server) open() (calls, left int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.left {
		left += n
	}
	return int(s.calls.Used()), left
}

// TestCallsLeftBehind: who lets calls hang gets no more than a share, whatever
// others do.
func TestCallsLeftBehind(t *testing.T) {
	dir, fs := hung(t, true)
	s := newServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	stat := func(ctx context.Context, user any, path string) error {
		_, err := s.Stat(ctx, &guestv1.StatRequest{Subject: as(user), Path: []byte(path)})
		return err
	}
	var wg sync.WaitGroup
	for range maxLeft {
		wg.Go(func() { _ = stat(ctx, someUser, dir+"/x") })
	}
	<-fs.Asked()
	wait.For(t, "all calls", func() bool { calls, _ := s.open(); return calls == maxLeft })
	if err := stat(t.Context(), someUser, "/"); err != nil {
		t.Errorf("before they are left behind: %v", err)
	}
	cancel()
	wg.Wait()
	if f, ok := errors.AsType[*fault.Error](stat(t.Context(), someUser, "/")); !ok || f.Reason() != reasonTooMany {
		t.Errorf("beyond the share: %v", f)
	}
	for _, user := range []any{0, 54999} {
		if err := stat(t.Context(), user, "/"); err != nil {
			t.Errorf("as %v: %v", user, err)
		}
	}
	fs.End()
	wait.For(t, "the share", func() bool { return stat(t.Context(), someUser, "/") == nil })
}

// TestFIFO: no call waits for the other end of a FIFO.
func TestFIFO(t *testing.T) {
	s := newServer(t)
	fifo := filepath.Join(t.TempDir(), "x")
	if err := unix.Mkfifo(fifo, 0o666); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for name, call := range calls(s, nil, []byte(filepath.Dir(fifo))) {
		if name == "remove" || name == "rename" || name == "chmod" {
			continue
		}
		if err := call(ctx); err != nil && ctx.Err() != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, call := range calls(s, nil, []byte(fifo)) { // as a directory
		if err := call(ctx); err != nil && ctx.Err() != nil {
			t.Errorf("%s below it: %v", name, err)
		}
	}
	for _, path := range []string{fifo, filepath.Dir(fifo)} {
		if err := s.List(&guestv1.ListRequest{Path: []byte(path), Depth: 3}, nowhere[guestv1.ListResponse]{ctx: ctx}); err != nil {
			t.Errorf("list %s: %v", path, err)
		}
		if _, err := s.DiskUsage(ctx, &guestv1.DiskUsageRequest{Path: []byte(path)}); err != nil {
			t.Errorf("du %s: %v", path, err)
		}
	}
}

// TestFIFOForADirectory: nor does one that looks into directories, if a FIFO takes
// the place of a directory between the look and the open.
func TestFIFOForADirectory(t *testing.T) {
	s := newServer(t)
	dir := t.TempDir()
	for i := range 20 {
		name := filepath.Join(dir, strconv.Itoa(i))
		if err := errors.Join(os.Mkdir(name, 0o755), unix.Mkfifo(name+".fifo", 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stop, swapping := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(swapping)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				name := filepath.Join(dir, strconv.Itoa(i%20))
				_ = unix.Renameat2(unix.AT_FDCWD, name, unix.AT_FDCWD, name+".fifo", unix.RENAME_EXCHANGE)
			}
		}
	}()
	for range 300 {
		err := s.List(&guestv1.ListRequest{Path: []byte(dir), Depth: 3}, nowhere[guestv1.ListResponse]{ctx: ctx})
		if _, duErr := s.DiskUsage(ctx, &guestv1.DiskUsageRequest{Path: []byte(dir)}); err != nil || duErr != nil {
			t.Errorf("list: %v; du: %v", err, duErr)
			break
		}
	}
	close(stop)
	<-swapping
}

// TestWatchShares: what calls of users watch leaves room for the rest of the guest,
// and for each other.
func TestWatchShares(t *testing.T) {
	r := newWatchRoom()
	r.most = 8
	var leave []func()
	enter := func(uid int, want bool) {
		t.Helper()
		f, err := r.enter(uint32(uid))
		if (err == nil) != want {
			t.Errorf("for %d: %v, want %v", uid, err, want)
		}
		if err == nil {
			leave = append(leave, f)
		}
	}
	for range 4 {
		enter(someUser, true)
	}
	enter(someUser, false)
	for range 4 {
		enter(os.Geteuid(), true)
	}
	enter(os.Geteuid(), false)
	for _, f := range leave {
		f()
	}
	if r.all != 0 || len(r.calls) != 0 {
		t.Errorf("%d calls, %v are left", r.all, r.calls)
	}
	file := filepath.Join(t.TempDir(), "limit")
	for text, want := range map[string]int{"100\n": 50, "1": 1, "0": 1, "4000": 512, "x": 512} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := half(file, 512); got != want {
			t.Errorf("half of %q is %d, want %d", text, got, want)
		}
	}
}

// TestWatchRoom: a call that watches more than there is room for says so, and leaves
// nothing.
func TestWatchRoom(t *testing.T) {
	s := newServer(t)
	s.watches = charge.NewPool(3)
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/a/b/c", 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := s.Watch(&guestv1.WatchRequest{Path: []byte(dir), Recursive: true}, nowhere[guestv1.WatchResponse]{ctx: ctx})
	if f, ok := errors.AsType[*fault.Error](err); !ok || f.Reason() != "watches-exhausted" {
		t.Errorf("%v", err)
	}
	if n := s.watches.Used(); s.watching.all != 0 || n != 0 {
		t.Errorf("%d calls, %d directories are left", s.watching.all, n)
	}
}

// TestWatchAsUser: a user's watch sees what happens, with the user's rights alone.
func TestWatchAsUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	for d := dir; d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Mkdir(dir+"/open", 0o755), os.Mkdir(dir+"/secret", 0o700)); err != nil {
		t.Fatal(err)
	}
	s := newServer(t)
	a, err := s.account(as(someUser))
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	defer events.Close()
	err = s.as(t.Context(), a, func(tr tree) error {
		w := &watcher{tree: tr, path: dir, recursive: true, fd: fd, pool: s.watches, account: charge.Everybody, paths: make(map[int]string)}
		if err := w.add("", true); err != nil {
			return err
		}
		if len(w.paths) != 2 {
			t.Errorf("it watches %v", w.paths)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	write := os.WriteFile(dir+"/open/file", nil, 0o644)
	n, err := events.Read(make([]byte, 4096))
	if err != nil || write != nil || n == 0 {
		t.Errorf("%d bytes of events, %v, %v", n, err, write)
	}
}

// TestNotRoot: an agent that is not root says so.
func TestNotRoot(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may")
	}
	s := newServer(t)
	_, err := s.Stat(t.Context(), &guestv1.StatRequest{Subject: as(someUser), Path: []byte("/")})
	if f, ok := errors.AsType[*fault.Error](err); !ok || f.Reason() != reasonNotPermitted {
		t.Errorf("%v", err)
	}
	if calls, _ := s.open(); calls != 0 {
		t.Errorf("%d calls are open", calls)
	}
}
