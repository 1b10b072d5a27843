package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/transport"
)

// TestVsockDevice starts the device, beside a socket that a killed one has left,
// kills its process, has it replaced, and ends it.
func TestVsockDevice(t *testing.T) {
	t.Setenv(asHostCtl, "1") // of the device process
	dir := t.TempDir()
	o := &deviceOptions{cid: 3, socket: filepath.Join(dir, "vhost"), uds: filepath.Join(dir, "uds"), mode: "0660", group: "0"}
	if os.Geteuid() != 0 {
		o.group = ""
	}
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: o.uds, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()

	mode, gid, err := o.check()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan struct{})
	log := slog.New(slog.NewTextHandler(writerFunc(func(b []byte) (int, error) {
		if strings.Contains(string(b), "msg=serving") {
			close(started)
		}
		return len(b), nil
	}), nil))
	ended := make(chan error, 1)
	go func() { ended <- serveDevice(ctx, o, mode, gid, log) }()
	select {
	case <-started:
	case err := <-ended:
		t.Fatal(err)
	}
	for _, path := range []string{o.socket, o.uds} {
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode() != fs.ModeSocket|0o660 {
			t.Errorf("%s: mode %v", path, fi.Mode())
		}
		if st := fi.Sys().(*syscall.Stat_t); gid >= 0 && int(st.Gid) != gid {
			t.Errorf("%s: group %d, want %d", path, st.Gid, gid)
		}
	}
	dialCtx, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	served := func() {
		t.Helper()
		if _, err := transport.Dial(dialCtx, transport.MuxAddr(o.uds, 7), nil); !errors.Is(err, transport.ErrVMMClosed) {
			t.Errorf("dial without a VM: %v", err)
		}
	}
	served()
	// The process that is killed is not the one that has the sockets.
	first := deviceProcess(dialCtx, t, 0)
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	second := deviceProcess(dialCtx, t, first)
	served()
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil { // an upgrade
		t.Fatal(err)
	}
	deviceProcess(dialCtx, t, second)
	served()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for _, path := range []string{o.socket, o.uds} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is left", path)
		}
	}
}

// deviceProcess returns the pid of the device process, other than not, as soon
// as there is one.
func deviceProcess(ctx context.Context, t *testing.T, not int) int {
	t.Helper()
	for ctx.Err() == nil {
		files, err := filepath.Glob("/proc/self/task/*/children")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			children, _ := os.ReadFile(file) // a thread may have ended
			for _, pid := range strings.Fields(string(children)) {
				words, _ := os.ReadFile("/proc/" + pid + "/cmdline")
				if n, err := strconv.Atoi(pid); err == nil && n != not && strings.Contains(string(words), "vsock-device") {
					return n
				}
			}
		}
	}
	t.Fatal("no device process")
	return 0
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

var _ io.Writer = writerFunc(nil)

// TestVsockDeviceFlags refuses what makes no device.
func TestVsockDeviceFlags(t *testing.T) {
	good := deviceOptions{cid: 3, socket: "/a", uds: "/b", mode: "0600"}
	if _, gid, err := good.check(); err != nil || gid != -1 {
		t.Errorf("%+v: group %d, %v", good, gid, err)
	}
	for name, change := range map[string]func(*deviceOptions){
		"no CID":         func(o *deviceOptions) { o.cid = 0 },
		"no socket":      func(o *deviceOptions) { o.socket = "" },
		"no uds":         func(o *deviceOptions) { o.uds = "" },
		"the same":       func(o *deviceOptions) { o.uds = "/./a" },
		"no mode":        func(o *deviceOptions) { o.mode = "" },
		"not octal":      func(o *deviceOptions) { o.mode = "0689" },
		"setuid":         func(o *deviceOptions) { o.mode = "4600" },
		"not writable":   func(o *deviceOptions) { o.mode = "0444" },
		"no such group":  func(o *deviceOptions) { o.group = "no-such-group" },
		"negative group": func(o *deviceOptions) { o.group = "-1" },
	} {
		o := good
		change(&o)
		if _, _, err := o.check(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
