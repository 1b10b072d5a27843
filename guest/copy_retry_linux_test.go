package guest_test

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/guest"
)

// breaking is a connection that breaks after so many bytes were written to it.
type breaking struct {
	net.Conn
	left atomic.Int64
}

func (b *breaking) SyscallConn() (syscall.RawConn, error) { return nil, syscall.ENOTSUP }

func (b *breaking) Write(p []byte) (int, error) {
	if b.left.Add(-int64(len(p))) < 0 {
		b.Conn.Close()
	}
	return b.Conn.Write(p)
}

// TestRetriedUploadReplaces cuts a copy to the guest before it has come to a file that
// is there with the size and time of the source's: it is replaced all the same, and a
// directory keeps its mode, as without a cut. With Resume the file is left alone.
func TestRetriedUploadReplaces(t *testing.T) {
	addr := startAgent(t)
	for _, resume := range []bool{false, true} {
		src, dst := t.TempDir(), t.TempDir()
		when := time.Unix(1_600_000_000, 0)
		write := func(dir, name string, data []byte) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(filepath.Join(dir, name), when, when); err != nil {
				t.Fatal(err)
			}
		}
		for _, dir := range []string{src, dst} {
			if err := os.Mkdir(filepath.Join(dir, "d"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(filepath.Join(src, "d"), 0o755); err != nil {
			t.Fatal(err)
		}
		write(src, "a", bytes.Repeat([]byte("0123456789abcdef"), 1<<19))
		write(src, "z", []byte("new"))
		write(dst, "z", []byte("old"))
		dials := 0
		g, err := guest.Dial(t.Context(), "test", &guest.Config{Dialer: func(ctx context.Context) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(addr, "unix:"))
			if dials++; err == nil && dials == 1 {
				b := &breaking{Conn: conn}
				b.left.Store(4 << 20)
				conn = b
			}
			return conn, err
		}})
		if err != nil {
			t.Fatal(err)
		}
		result, err := g.Files().CopyTo(t.Context(), []string{src + "/."}, dst, &guest.CopyOptions{Resume: resume})
		g.Close()
		if err != nil || result.Resumed == 0 {
			t.Fatalf("resume %v: %+v, %v", resume, result, err)
		}
		want := "new"
		if resume {
			want = "old"
		}
		if got, err := os.ReadFile(filepath.Join(dst, "z")); err != nil || string(got) != want {
			t.Errorf("resume %v: z is %q, %v, want %q", resume, got, err, want)
		}
		if info, err := os.Stat(filepath.Join(dst, "d")); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("resume %v: the directory has the mode %v, %v, had 0700", resume, info.Mode(), err)
		}
		if info, err := os.Stat(filepath.Join(dst, "a")); err != nil || info.Size() != 8<<20 {
			t.Errorf("resume %v: a: %v, %v", resume, info, err)
		}
	}
}
