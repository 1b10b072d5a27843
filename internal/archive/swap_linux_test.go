package archive

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// swapping exchanges two names, over and over, until stop is called.
func swapping(t *testing.T, a, b string) (stop func()) {
	t.Helper()
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				// Either may be missing for a moment, when it is replaced.
				_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
				// Nobody else would get at a directory that is renamed all the time.
				time.Sleep(time.Duration(rand.Int64N(int64(100 * time.Microsecond))))
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}

// TestSwaps copies a tree while somebody exchanges directories of it, on both
// sides, for links that lead elsewhere: nothing that is elsewhere is sent, and
// nothing is written there.
func TestSwaps(t *testing.T) {
	attempts := 1000
	if os.Getenv("VSOCKRPC_STRESS") != "" {
		attempts = 10_000
	}
	for _, tt := range []struct {
		name     string
		trusted  bool
		attempts int
	}{{"as a host", false, attempts}, {"as a confined agent", true, attempts / 5}} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := func(name string) string { return filepath.Join(dir, name) }
			for _, d := range []string{"src/d/sub", "dst/d/sub", "outside/sub"} {
				if err := os.MkdirAll(path(d), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for name, text := range map[string]string{
				"src/d/a": "inside", "src/d/secret": "inside", "src/d/sub/b": strings.Repeat("inside", 6_000),
				"outside/secret": "secret", "outside/sub/b": "secret",
			} {
				if err := os.WriteFile(path(name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(os.Symlink("../outside", path("src/z")), os.Symlink("../outside", path("dst/z"))); err != nil {
				t.Fatal(err)
			}
			before := snapshot(t, path("outside"), "")
			var root *os.Root
			source, destination := path("src"), path("dst")
			if tt.trusted {
				var err error
				if root, err = os.OpenRoot(dir); err != nil {
					t.Fatal(err)
				}
				defer root.Close()
				source, destination = "/src", "/dst"
			}
			stopSrc, stopDst := swapping(t, path("src/d"), path("src/z")), swapping(t, path("dst/d"), path("dst/z"))
			whole := 0
			for i := range tt.attempts {
				err := copyOnce(t, &SendConfig{Sources: []Source{{Path: source, Contents: true}}, Root: root},
					&ReceiveConfig{Destination: destination, Root: root, Trusted: tt.trusted})
				if f, ok := errors.AsType[*Failure](err); ok && f.Reason == ReasonProtocol {
					t.Fatalf("attempt %d: %v", i, err)
				}
				if err == nil {
					whole++
				}
			}
			stopSrc()
			stopDst()
			if after := snapshot(t, path("outside"), ""); after != before {
				t.Errorf("outside:\n%s\nbefore:\n%s", after, before)
			}
			if text := snapshot(t, path("dst"), ""); strings.Contains(text, "r--secret") {
				t.Errorf("sent what is outside:\n%s", text)
			}
			t.Logf("%d of %d copies came to their end", whole, tt.attempts)
		})
	}
}

// copyOnce sends and receives, and returns the receiver's error.
func copyOnce(t *testing.T, send *SendConfig, receive *ReceiveConfig) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	forth, back := make(chan []byte, 16), make(chan []byte, 16)
	sent := make(chan struct{})
	send.Options = &guestv1.TransferOptions{Sync: guestv1.SyncPolicy_SYNC_POLICY_NONE}
	receive.Options, receive.Names = send.Options, []string{""}
	go func() {
		defer close(sent)
		_, _ = Send(&pipe{ctx: ctx, in: back, out: forth, ended: make(chan struct{})}, send) // the receiver's error counts
	}()
	_, err := Receive(&pipe{ctx: ctx, in: forth, out: back, ended: make(chan struct{})}, receive)
	if err != nil {
		cancel()
	}
	<-sent
	return err
}
