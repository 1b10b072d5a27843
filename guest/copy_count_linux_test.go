package guest_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/guest"
)

// TestCountsAfterCuts cuts copies of a tree, in which some files cannot be copied and one
// is skipped: what the copy says it has done is what it says without a cut, and the
// progress ends with all bytes of what was found.
func TestCountsAfterCuts(t *testing.T) {
	src := t.TempDir()
	want := guest.CopyResult{Failed: 2, Skipped: 1}
	for i := range 400 {
		dir := filepath.Join(src, fmt.Sprintf("d%02d", i%20))
		data := strings.Repeat(fmt.Sprint(i), 2000)
		if i%50 == 49 {
			data = strings.Repeat(data, 100)
		}
		must(t, os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, fmt.Sprint("f", i)), []byte(data), 0o644))
		want.Files, want.Bytes = want.Files+1, want.Bytes+uint64(len(data))
	}
	must(t, unix.Mkfifo(filepath.Join(src, "d00/fifo"), 0o600), unix.Mkfifo(filepath.Join(src, "d15/fifo"), 0o600))
	must(t, os.Symlink("f1", filepath.Join(src, "d01/link")))
	path := startAgent(t)[len("unix:"):]
	for _, way := range []string{"to", "from"} {
		t.Run(way, func(t *testing.T) {
			var left, conns atomic.Int64
			g, err := guest.Dial(t.Context(), "guest", &guest.Config{Dialer: func(ctx context.Context) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, "unix", path)
				if err != nil {
					return nil, err
				}
				if n := conns.Add(1); n > 1 && n < 5 {
					left.Store(int64(want.Bytes) / 5)
				}
				return cutReads{cutConn{c, &left}}, nil
			}})
			must(t, err)
			defer g.Close()
			dst := t.TempDir()
			must(t, os.Mkdir(filepath.Join(dst, "d01"), 0o755), os.Symlink("f1", filepath.Join(dst, "d01/link")))
			var last guest.CopyProgress
			do := g.Files().CopyTo
			if way == "from" {
				do = g.Files().CopyFrom
			}
			left.Store(int64(want.Bytes) / 5)
			result, err := do(t.Context(), []string{src + "/."}, dst, &guest.CopyOptions{Sync: guest.SyncNone, Progress: func(p guest.CopyProgress) { last = p }})
			ce, ok := errors.AsType[*guest.CopyError](err)
			if !ok || ce.Failed != 2 || len(ce.Failures) != 2 {
				t.Fatalf("%+v, %v: %d failures, want two", result, err, len(ce.Failures))
			}
			if result.Resumed != 4 {
				t.Errorf("resumed %d times, want 4", result.Resumed)
			}
			got := *result
			if got.Resumed = 0; got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
			if last.Bytes != last.Total || last.Bytes != want.Bytes {
				t.Errorf("the last progress is %+v, want all of %d bytes", last, want.Bytes)
			}
		})
	}
}

// cutReads is lost after so many bytes either way.
type cutReads struct{ cutConn }

func (c cutReads) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if left := c.left.Load(); left > 0 && c.left.Add(-int64(n)) <= 0 {
		c.Conn.Close()
		return 0, errors.New("cut")
	}
	return n, err
}
