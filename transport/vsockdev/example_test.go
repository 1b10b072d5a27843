//go:build linux

package vsockdev_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/transport/vsockdev"
)

// bootGuest boots a guest whose init is in the cpio archive initrd, under
// User-mode Linux (Debian's package user-mode-linux), and connects to a port
// of it. It ends with the test.
func bootGuest(t *testing.T, initrd string, port uint32) net.Conn {
	dir := t.TempDir()
	dev, err := vsockdev.New(vsockdev.Config{CID: 3})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "vhost"))
	if err != nil {
		t.Fatal(err)
	}
	go dev.Serve(l)
	vm := exec.Command("linux.uml", "mem=256M", "initrd="+initrd, "con=null", "con0=null,fd:1", "quiet", "panic=-1",
		"virtio_uml.device="+l.Addr().String()+":19")
	vm.Stdout = os.Stderr
	if err := vm.Start(); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { vm.Process.Kill(); vm.Wait(); dev.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		conn, err := dev.DialContext(ctx, port)
		if err == nil {
			return conn
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond) // refused until the guest listens
	}
}

// A test of a guest of one's own.
func Example_test() {
	_ = func(t *testing.T) {
		conn := bootGuest(t, "testdata/guest.cpio", 1000)
		defer conn.Close()
		fmt.Fprintln(conn, "hello")
		answer, err := io.ReadAll(conn)
		t.Log(string(answer), err)
	}
}
