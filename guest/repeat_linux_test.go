package guest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/vsockrpc/vsockrpc/guest"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// brittle makes connections to a Unix socket that can be told to break.
type brittle struct {
	path string
	// left is how many bytes come in before the connection in use breaks; 0: it holds.
	left  atomic.Int64
	dials atomic.Int64
}

func (b *brittle) dial(ctx context.Context) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "unix", b.path)
	if err != nil {
		return nil, err
	}
	b.dials.Add(1)
	return brittleConn{c, b}, nil
}

type brittleConn struct {
	net.Conn
	b *brittle
}

func (c brittleConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if left := c.b.left.Load(); left > 0 && n > 0 {
		if left <= int64(n) {
			c.b.left.Store(0)
			c.Conn.Close()
			return 0, errors.New("broken")
		}
		c.b.left.Store(left - int64(n))
	}
	return n, err
}

// TestReadsRepeated breaks the connection before the answer of each call that only
// reads: it is made again. One that changes something is not.
func TestReadsRepeated(t *testing.T) {
	b := &brittle{path: startAgent(t)[len("unix:"):]}
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	g, err := guest.Dial(t.Context(), "guest", &guest.Config{Dialer: b.dial})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	ctx, files := t.Context(), g.Files()
	for name, call := range map[string]func() error{
		"Info":      func() error { _, err := g.Info(ctx); return err },
		"Sessions":  func() error { _, err := g.Sessions(ctx); return err },
		"HostKeys":  func() error { _, err := g.HostKeys(ctx); return err },
		"Policy":    func() error { _, err := g.Policy(ctx); return err },
		"Explain":   func() error { _, err := g.Explain(ctx, &guestv1.ExplainRequest{Method: "info"}); return err },
		"Stat":      func() error { _, err := files.Stat(ctx, file); return err },
		"ReadLink":  func() error { _, err := files.ReadLink(ctx, filepath.Join(dir, "link")); return err },
		"DiskFree":  func() error { _, err := files.DiskFree(ctx, dir); return err },
		"DiskUsage": func() error { _, err := files.DiskUsage(ctx, dir); return err },
		"Hash":      func() error { _, _, err := files.Hash(ctx, file, 0, 0); return err },
		"Xattrs":    func() error { _, err := files.Xattrs(ctx, file); return err },
		"Processes": func() error { return last(g.Processes(ctx)) },
		"List":      func() error { return last(files.List(ctx, dir, nil)) },
		"ReadFile":  func() error { _, err := files.ReadFile(ctx, file, 0); return err },
	} {
		if err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		before := b.dials.Load()
		b.left.Store(1)
		if err := call(); err != nil {
			t.Errorf("%s across a cut: %v", name, err)
		}
		if n := b.dials.Load() - before; n != 1 {
			t.Errorf("%s: %d new connections, want 1", name, n)
		}
	}
	b.left.Store(1)
	e, ok := errors.AsType[*guest.Error](files.Mkdir(ctx, filepath.Join(dir, "new"), 0o700))
	if !ok || e.Reason != guest.ReasonUnreachable {
		t.Errorf("Mkdir across a cut: %v, want unreachable", e)
	}
}

func last[T any](seq func(func(T, error) bool)) (err error) {
	for _, err = range seq {
	}
	return err
}

// TestReadGoesOn cuts the reading of a file.
func TestReadGoesOn(t *testing.T) {
	b := &brittle{path: startAgent(t)[len("unix:"):]}
	g, err := guest.Dial(t.Context(), "guest", &guest.Config{Dialer: b.dial})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	path := filepath.Join(t.TempDir(), "file")
	want := randomFile(t, path, 4<<20)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ cut, offset, length uint64 }{{2 << 20, 0, 0}, {1 << 20, 12345, 3 << 20}, {100, 1 << 20, 0}} {
		var got bytes.Buffer
		b.left.Store(int64(test.cut))
		before := b.dials.Load()
		if err := g.Files().CopyRange(t.Context(), &got, path, test.offset, test.length); err != nil {
			t.Fatal(err)
		}
		end := uint64(len(data))
		if test.length > 0 {
			end = test.offset + test.length
		}
		if !bytes.Equal(got.Bytes(), data[test.offset:end]) {
			t.Errorf("%v: %d bytes, want %d others", test, got.Len(), end-test.offset)
		}
		if n := b.dials.Load() - before; n != 1 {
			t.Errorf("%v: %d new connections, want 1", test, n)
		}
	}
	if got := hashFile(t, path); got != want {
		t.Error("the file has changed")
	}

	// Another file has the name after the cut.
	b.left.Store(2 << 20)
	replaced := false
	err = g.Files().CopyRange(t.Context(), writerFunc(func(p []byte) (int, error) {
		if !replaced {
			replaced = true
			randomFile(t, path+".new", 4<<20)
			if err := os.Rename(path+".new", path); err != nil {
				t.Error(err)
			}
		}
		return len(p), nil
	}), path, 0, 0)
	if e, ok := errors.AsType[*guest.Error](err); !ok || e.Reason != "file-changed" {
		t.Errorf("a file that was replaced: %v, want file-changed", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

var _ io.Writer = writerFunc(nil)
