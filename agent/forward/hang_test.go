//go:build linux

package forward

import (
	"context"
	"os"
	"testing"

	"github.com/vsockrpc/vsockrpc/internal/hostile"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestSocketThatHangs: a Unix socket on a file system that does not answer delays its
// caller alone, and no longer than its context.
func TestSocketThatHangs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	fs, err := hostile.MountHung(dir, 54321, 54321, true)
	if err != nil {
		t.Skip(err)
	}
	defer fs.Close()
	for _, held := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		if held {
			var h *Hold
			ctx, h = WithHold(ctx)
			h.NoLinks()
		}
		errs := make(chan error, 2)
		go func() {
			_, err := dial(ctx, &guestv1.DialOpen{Network: "unix", Address: []byte(dir + "/x")})
			errs <- err
		}()
		go func() {
			_, err := listen(ctx, "unix", dir+"/x", socketFile{})
			errs <- err
		}()
		<-fs.Asked()
		cancel()
		for range 2 {
			if err := <-errs; err == nil || ctx.Err() == nil {
				t.Errorf("held %v: %v", held, err)
			}
		}
	}
	if l, err := listen(t.Context(), "unix", t.TempDir()+"/s", socketFile{}); err != nil {
		t.Errorf("another socket: %v", err)
	} else if err := l.Close(); err != nil {
		t.Error(err)
	}
}
