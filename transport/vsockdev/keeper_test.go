//go:build linux

package vsockdev

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/transport"
)

// envChild makes this test binary a device process: the keeper's file is 3, the
// sockets for the front end and for clients are 4 and 5.
const envChild = "VSOCKDEV_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(envChild) == "" {
		os.Exit(m.Run())
	}
	if err := child(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func child() error {
	dev, err := New(Config{CID: guestCID, Keeper: os.NewFile(3, "keeper")})
	if err != nil {
		return err
	}
	var l [2]net.Listener
	for i := range l {
		if l[i], err = net.FileListener(os.NewFile(uintptr(4+i), "socket")); err != nil {
			return err
		}
		l[i].(*net.UnixListener).SetUnlinkOnClose(false)
	}
	go dev.ServeMux(l[1].(*net.UnixListener))
	if err := dev.Serve(l[0]); !errors.Is(err, ErrClosed) {
		return err
	}
	return nil
}

// A childDevice is a device process with its keeper.
type childDevice struct {
	keeper *Keeper
	files  []*os.File
	cmd    *exec.Cmd
	served chan error
}

func (c *childDevice) start(t *testing.T) {
	t.Helper()
	file, serve, err := c.keeper.Connect()
	if err != nil {
		t.Fatal(err)
	}
	c.cmd = exec.Command(os.Args[0])
	c.cmd.Env = append(os.Environ(), envChild+"=1")
	c.cmd.Stderr = os.Stderr
	c.cmd.ExtraFiles = append([]*os.File{file}, c.files...)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	file.Close()
	c.served = make(chan error, 1)
	go func() { c.served <- serve() }()
}

func (c *childDevice) end(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := c.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	_ = c.cmd.Wait() // killed
	if err := <-c.served; err != nil {
		t.Errorf("the keeper: %v", err)
	}
}

// TestKeeper kills the device process in the middle of everything, some times:
// the guest sees its connections reset, and the next device goes on.
func TestKeeper(t *testing.T) {
	dir := t.TempDir()
	c := &childDevice{}
	for _, name := range []string{"vhost", "uds"} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		c.files = append(c.files, f)
	}
	var err error
	if c.keeper, err = NewKeeper(); err != nil {
		t.Fatal(err)
	}
	defer c.keeper.Close()
	c.start(t)
	t.Cleanup(func() { c.end(t, syscall.SIGKILL) })
	g := startGuest(t, filepath.Join(dir, "vhost"), featureEventIdx|featureIndirect)
	guestEnds := make(chan error, 10)
	g.listen(7, func(gc *guestConn) {
		_, err := io.Copy(gc, gc)
		guestEnds <- err
	})
	for range 3 {
		conn := dialMux(t, filepath.Join(dir, "uds"))
		idle := dialMux(t, filepath.Join(dir, "uds"))
		want := randomBytes(300 << 10)
		go conn.Write(want)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != string(want) {
			t.Fatalf("other bytes came back: %v", err)
		}
		go conn.Write(want) // is under way when it ends
		c.end(t, syscall.SIGKILL)
		if n, err := io.Copy(io.Discard, idle); n != 0 || err != nil && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("a client of a device that was killed: %d bytes, %v", n, err)
		}
		start := time.Now()
		c.start(t)
		for range 2 {
			if err := <-guestEnds; !errors.Is(err, errGuestReset) {
				t.Errorf("the guest's connection ends with %v, want a reset", err)
			}
		}
		t.Logf("the guest hears of it after %v", time.Since(start).Round(time.Millisecond))
		conn.Close()
		idle.Close()
	}
	// A VM that ends meanwhile is not gone on with.
	c.end(t, syscall.SIGKILL)
	g.driver.end()
	c.start(t)
	startGuest(t, filepath.Join(dir, "vhost"), 0).listen(7, echo)
	conn := dialMux(t, filepath.Join(dir, "uds"))
	io.WriteString(conn, "x")
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

// dialMux connects to the guest's port 7 through a device that may be starting.
func dialMux(t *testing.T, path string) *transport.Conn {
	t.Helper()
	for ctx := testContext(t); ; {
		c, err := transport.Dial(ctx, transport.MuxAddr(path, 7), nil)
		if err == nil {
			t.Cleanup(func() { c.Close() })
			return c
		}
		if e, ok := errors.AsType[*transport.Error](err); !ok || !e.Temporary() || ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

// TestKeeperEnds has the device end with its keeper.
func TestKeeperEnds(t *testing.T) {
	keeper, err := NewKeeper()
	if err != nil {
		t.Fatal(err)
	}
	file, serve, err := keeper.Connect()
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- serve() }()
	dev, err := New(Config{CID: guestCID, Keeper: file})
	if err != nil {
		t.Fatal(err)
	}
	dev.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(pair[1])
	if _, err := New(Config{CID: guestCID, Keeper: os.NewFile(uintptr(pair[0]), "keeper")}); err == nil {
		t.Error("a device starts whose keeper is gone")
	}
	keeper.Close()
}

// TestWrongState restores what no device has left.
func TestWrongState(t *testing.T) {
	for name, state := range map[string]string{
		"descriptors that are not there": `{"Backend":true}`,
		"memory that is not there":       `{"Regions":[{"Guest":0,"Size":4096}]}`,
		"a kick that is not there":       `{"Vrings":[{"Kick":true},{},{}]}`,
		"a ring in no memory":            `{"Vrings":[{"Num":64,"Addressed":true,"Enabled":true,"Kick":true,"Running":true},{},{}]}`,
	} {
		var k kept
		if err := json.Unmarshal([]byte(state), &k); err != nil {
			t.Fatal(err)
		}
		epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		var fds []int
		if k.Vrings[0].Running {
			fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
			if err != nil {
				t.Fatal(err)
			}
			fds = append(fds, fd)
		}
		s := newSetup(epoll, func() {})
		if err := s.restore(&k, fds); err == nil {
			t.Errorf("%s: no error", name)
		}
		s.close()
		unix.Close(epoll)
	}
}
