//go:build linux

package hostile

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/agent"
	"github.com/vsockrpc/vsockrpc/guest"
)

// TestDescriptors: a program that is started gets its three descriptors, whatever
// the agent has open at the time.
func TestDescriptors(t *testing.T) {
	for _, fd := range descriptors(t) {
		if fd > 2 {
			unix.CloseOnExec(fd) // of whoever has started the test
		}
	}
	g := embedded(t, &agent.Config{}, guest.WireNative)
	dir := t.TempDir()
	holdEverything(t, g, dir)
	for _, fd := range descriptors(t) {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if fd > 2 && err == nil && flags&unix.FD_CLOEXEC == 0 {
			what, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
			t.Errorf("descriptor %d (%s) would be inherited", fd, what)
		}
	}
	for _, terminal := range []bool{false, true} {
		cmd := g.Command(t.Context(), "ls", "/proc/self/fd")
		if terminal {
			cmd.Terminal = &guest.Terminal{}
		}
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		// The last is the directory that ls reads.
		if got := strings.Fields(string(out)); !slices.Equal(got, []string{"0", "1", "2", "3"}) {
			t.Errorf("terminal %v: it has %q", terminal, got)
		}
	}
}

func descriptors(t *testing.T) (fds []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, fd)
	}
	return fds
}

// holdEverything has the agent hold files, watches, connections, listeners, pipes
// and terminals.
func holdEverything(t *testing.T, g *guest.Guest, dir string) {
	t.Helper()
	ctx := t.Context()
	for i := range 20 {
		f, err := g.Files().Create(ctx, filepath.Join(dir, strconv.Itoa(i)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
	}
	watched := make(chan struct{})
	go func() {
		first := true
		for range g.Files().Watch(ctx, dir, &guest.WatchOptions{Recursive: true}) {
			if first {
				close(watched)
			}
			first = false
		}
	}()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	for range 5 {
		c, err := g.DialContext(ctx, "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
	inGuest, err := g.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { inGuest.Close() })
	for i := range 4 {
		running, stop := context.WithCancel(ctx)
		cmd := g.Command(running, "cat")
		if i%2 == 0 {
			cmd.Terminal = &guest.Terminal{}
		}
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			in.Close()
			stop()
			_ = cmd.Wait()
		})
	}
	for n := 0; ; n++ {
		// Something happens in the directory until the watch has seen it.
		if err := os.WriteFile(filepath.Join(dir, "event"), []byte(strconv.Itoa(n)), 0o600); err != nil {
			t.Fatal(err)
		}
		select {
		case <-watched:
			return
		case <-ctx.Done():
			t.Fatal("no event")
		default:
		}
	}
}
