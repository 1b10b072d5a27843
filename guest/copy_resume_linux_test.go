package guest_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vsockrpc/vsockrpc/agent"
	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/guest"
	"github.com/vsockrpc/vsockrpc/transport"
	"github.com/vsockrpc/vsockrpc/transport/vmmtest"
)

// stress has the tests of faults work on as much as is asked of a release.
var stress = os.Getenv("VSOCKRPC_STRESS") != ""

// countingConn counts what passes it.
type countingConn struct {
	net.Conn
	bytes *atomic.Int64
}

func (c countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.bytes.Add(int64(n))
	return n, err
}

func (c countingConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.bytes.Add(int64(n))
	return n, err
}

// dialVMM returns a guest whose agent is behind a simulated VMM, and the number
// of bytes on its connections.
func dialVMM(t *testing.T) (*vmmtest.VMM, *guest.Guest, *atomic.Int64) {
	t.Helper()
	vmm := vmmtest.New(t)
	l, err := vmm.Listen(transport.AgentPort)
	if err != nil {
		t.Fatal(err)
	}
	a, err := agent.New(&agent.Config{Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Access: access.Rules{Mode: access.ModeEmbedded}})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- a.Serve(l) }()
	t.Cleanup(func() {
		a.Close()
		<-served
	})
	bytes := new(atomic.Int64)
	g, err := guest.Dial(t.Context(), "vmm", &guest.Config{Dialer: func(ctx context.Context) (net.Conn, error) {
		c, err := transport.Dial(ctx, transport.MuxAddr(vmm.Path, transport.AgentPort), nil)
		if err != nil {
			return nil, err
		}
		return countingConn{c, bytes}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return vmm, g, bytes
}

// randomFile makes a file of so many bytes that nobody can foretell, and returns
// its SHA-256.
func randomFile(t *testing.T, name string, size int64) [32]byte {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	var seed [32]byte
	seed[0] = byte(size)
	if _, err := io.CopyN(io.MultiWriter(f, h), rand.NewChaCha8(seed), size); err != nil {
		t.Fatal(err)
	}
	return [32]byte(h.Sum(nil))
}

func hashFile(t *testing.T, name string) [32]byte {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return [32]byte(h.Sum(nil))
}

// noLeftovers fails the test if an unfinished file is in dir.
func noLeftovers(t *testing.T, dir string) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(dir, ".vsockrpc-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %q, %v", left, err)
	}
}

// TestCopyThroughResets copies a large file each way through a VMM that resets
// all connections every 500 ms.
func TestCopyThroughResets(t *testing.T) {
	if testing.Short() {
		t.Skip("large files")
	}
	size := int64(256 << 20)
	if stress {
		size = 2 << 30
	}
	for _, way := range []string{"to", "from"} {
		t.Run(way, func(t *testing.T) {
			dir := t.TempDir()
			src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
			want := randomFile(t, src, size)
			vmm, g, bytes := dialVMM(t)
			vmm.SetFaults(vmmtest.Faults{ResetEvery: 500 * time.Millisecond})
			copyFile := g.Files().CopyTo
			if way == "from" {
				copyFile = g.Files().CopyFrom
			}
			bytes.Store(0)
			result, err := copyFile(t.Context(), []string{src}, dst, nil)
			vmm.SetFaults(vmmtest.Faults{})
			if err != nil {
				t.Fatal(err)
			}
			if got := hashFile(t, dst); got != want {
				t.Error("the copy has another hash")
			}
			if n := bytes.Load(); float64(n) > 1.2*float64(size) {
				t.Errorf("%d bytes were sent for a file of %d (resumed %d times)", n, size, result.Resumed)
			}
			t.Logf("%d bytes for %d, resumed %d times", bytes.Load(), size, result.Resumed)
			noLeftovers(t, dir)
		})
	}
}

// TestTreeThroughResets copies many small files through such a VMM.
func TestTreeThroughResets(t *testing.T) {
	files := 2000
	if stress {
		files = 50_000
	}
	src := t.TempDir()
	var size int64
	for i := range files {
		dir := filepath.Join(src, fmt.Sprintf("d%03d", i%97))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		data := make([]byte, 100+i%9000)
		for j := range data {
			data[j] = byte(i + j*i)
		}
		size += int64(len(data)) + 150
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("f", i)), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := readTree(t, src)
	for _, way := range []string{"to", "from"} {
		t.Run(way, func(t *testing.T) {
			dst := filepath.Join(t.TempDir(), "dst")
			vmm, g, bytes := dialVMM(t)
			vmm.SetFaults(vmmtest.Faults{ResetEvery: 500 * time.Millisecond})
			copyTree := g.Files().CopyTo
			if way == "from" {
				copyTree = g.Files().CopyFrom
			}
			bytes.Store(0)
			result, err := copyTree(t.Context(), []string{src + "/."}, dst, &guest.CopyOptions{Sync: guest.SyncNone})
			vmm.SetFaults(vmmtest.Faults{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, readTree(t, dst)); diff != "" {
				t.Errorf("(-want +got)\n%.2000s", diff)
			}
			t.Logf("%d bytes for %d, resumed %d times", bytes.Load(), size, result.Resumed)
			// What is under way at a reset is lost, which counts in a tree this small.
			lost := int64(1+result.Resumed) * (256 << 10)
			if n := bytes.Load(); float64(n) > 1.2*float64(size)+float64(lost) {
				t.Errorf("%d bytes were sent for files of %d (resumed %d times)", n, size, result.Resumed)
			}
		})
	}
}
