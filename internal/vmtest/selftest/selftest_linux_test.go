package selftest

import (
	"io"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// needUML skips the test outside the UML lab.
func needUML(t *testing.T) {
	if os.Getenv("VSOCKRPC_LAB") != "uml" {
		t.Skip("needs the UML lab")
	}
}

// TestLoopback echoes through a vsock socket of this kernel.
func TestLoopback(t *testing.T) {
	needUML(t)
	listener, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(listener)
	if err := unix.Bind(listener, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: unix.VMADDR_PORT_ANY}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(listener, 1); err != nil {
		t.Fatal(err)
	}
	bound, err := unix.Getsockname(listener)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		fd, _, err := unix.Accept(listener)
		if err != nil {
			served <- err
			return
		}
		f := os.NewFile(uintptr(fd), "accepted")
		defer f.Close()
		_, err = io.Copy(f, f)
		served <- err
	}()

	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "dialed")
	defer f.Close()
	port := bound.(*unix.SockaddrVM).Port
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_LOCAL, Port: port}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("hello"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(f)
	if err != nil || string(got) != "hello" {
		t.Fatalf("echo = %q, %v", got, err)
	}
	if err := <-served; err != nil {
		t.Fatal(err)
	}
}

// TestSystem checks what the init has prepared for the other tests.
func TestSystem(t *testing.T) {
	needUML(t)
	if _, err := os.Stat("/proc/self/fd/0"); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile("/tmp/selftest", nil, 0o600); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.procs"); err != nil {
		t.Error(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	pty.Close()
}
