package device

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vsockrpc/vsockrpc/transport/vsockdev"
)

// size returns how much of something a test does: all, or a part in CI.
func size(all, short int) int {
	if testing.Short() {
		return short
	}
	return all
}

// TestGuest is the life of a guest of each kind. Its parts run in order, on the
// same guest.
func TestGuest(t *testing.T) {
	guests := loadGuests(t)
	for _, boot := range guests.Boots {
		t.Run(boot.Name, func(t *testing.T) {
			m := newMachine(t, boot)
			m.serveDevice(t)
			t.Logf("boot to the first answer: %v", m.start(t).Round(time.Millisecond))
			for _, part := range []struct {
				name string
				test func(*testing.T, *machine)
			}{
				{"HostCtl", func(t *testing.T, m *machine) { hostCtl(t, m, guests.HostCtl) }},
				{"Clock", clock},
				{"Copy", copyFiles},
				{"Output", output},
				{"Peer", peer},
				{"HalfClose", halfClose},
				{"Bulk", bulk},
				{"FromGuest", fromGuest},
				{"Many", many},
				{"SecondAgent", secondAgent},
				{"Pause", pause},
				{"PausedCount", pausedCount},
				{"QMP", qmpPause},
				{"Reboot", reboot},
				{"SameCID", sameCID},
				{"Killed", killed},
				{"PowerOff", powerOff},
			} {
				t.Run(part.name, func(t *testing.T) { part.test(t, m) })
				if t.Failed() {
					return // the guest is not what the next expects
				}
			}
		})
	}
}

// hostCtl is what a user does, as root and as somebody else.
func hostCtl(t *testing.T, m *machine, program string) {
	call := func(uid uint32, args ...string) (string, int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), callLimit)
		defer cancel()
		cmd := exec.CommandContext(ctx, program, args...)
		cmd.Env = append(os.Environ(), "HOME="+m.dir, "XDG_CONFIG_HOME="+m.dir)
		if uid != 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		}
		out, err := cmd.CombinedOutput()
		if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	for _, tt := range []struct {
		args []string
		out  string
		code int
	}{
		{[]string{"wait", m.address()}, "", 0},
		{[]string{"exec", m.address(), "--", "id", "-u"}, "0\n", 0},
		{[]string{"exec", m.address(), "--", "sh", "-c", "echo out; exit 7"}, "out\n", 7},
		{[]string{"exec", m.address(), "--", "sh", "-c", "kill -9 $$"}, "", 137},
		{[]string{"--wire", "grpc", "exec", m.address(), "--", "sh", "-c", "echo hi; exit 3"}, "hi\n", 3},
	} {
		if out, code := call(0, tt.args...); out != tt.out || code != tt.code {
			t.Errorf("host-ctl %q: %q, exit code %d, want %q, %d", tt.args, out, code, tt.out, tt.code)
		}
	}
	if out, code := call(0, "doctor", m.address()); code != 0 || !strings.Contains(out, "device: ") {
		t.Errorf("host-ctl doctor: %q, exit code %d", out, code)
	}
	if os.Geteuid() == 0 {
		// Who may write to the socket reaches the agent, which trusts root only.
		if out, code := call(65534, "exec", m.address(), "--", "id"); code != 125 || !strings.Contains(out, "host-root") {
			t.Errorf("host-ctl as nobody: %q, exit code %d", out, code)
		}
	}
}

// copyFiles copies a file to the guest and back, by its hash.
func copyFiles(t *testing.T, m *machine) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*callLimit)
	defer cancel()
	n := size(200<<20, 16<<20)
	dir := t.TempDir()
	there, back := filepath.Join(dir, "there"), filepath.Join(dir, "back")
	data := make([]byte, n)
	if _, err := io.ReadFull(pattern(int64(n)), data); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(there, data, 0o600); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if _, err := m.sdk.Files().CopyTo(ctx, []string{there}, "/tmp/there", nil); err != nil {
		t.Fatal(err)
	}
	t.Logf("to the guest: %.0f MB/s", float64(n)/1e6/time.Since(start).Seconds())
	want := sha256.Sum256(data)
	if sum, _, _ := strings.Cut(string(m.run(t, nil, "sha256sum", "/tmp/there")), " "); sum != fmt.Sprintf("%x", want) {
		t.Errorf("in the guest it hashes to %s, want %x", sum, want)
	}
	start = time.Now()
	if _, err := m.sdk.Files().CopyFrom(ctx, []string{"/tmp/there"}, back, nil); err != nil {
		t.Fatal(err)
	}
	t.Logf("from the guest: %.0f MB/s", float64(n)/1e6/time.Since(start).Seconds())
	got, err := os.ReadFile(back)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes came back of %d, or others: %v", len(got), n, err)
	}
	m.run(t, nil, "busybox", "rm", "/tmp/there")
}

// output runs commands with stdin and output.
func output(t *testing.T, m *machine) {
	n := size(100<<20, 8<<20)
	start := time.Now()
	if got := m.run(t, nil, "dd", "if=/dev/zero", "bs=64k", fmt.Sprintf("count=%d", n>>16)); len(got) != n {
		t.Errorf("%d bytes of output, want %d", len(got), n)
	}
	t.Logf("output: %.0f MB/s", float64(n)/1e6/time.Since(start).Seconds())
	h := sha256.New()
	if _, err := io.Copy(h, pattern(int64(n/8))); err != nil {
		t.Fatal(err)
	}
	start = time.Now()
	if got, want := string(m.run(t, pattern(int64(n/8)), "sha256sum")), fmt.Sprintf("%x  -\n", h.Sum(nil)); got != want {
		t.Errorf("stdin hashes to %q, want %q", got, want)
	}
	t.Logf("stdin: %.0f MB/s", float64(n/8)/1e6/time.Since(start).Seconds())
}

// peer asks in the guest who calls.
func peer(t *testing.T, m *machine) {
	m.helper(t)
	for name, tt := range map[string]struct {
		dial func(context.Context, uint32) (c io.ReadCloser, err error)
		low  bool
	}{
		"anybody": {func(ctx context.Context, port uint32) (io.ReadCloser, error) { return m.dev.DialContext(ctx, port) }, false},
		"root":    {func(ctx context.Context, port uint32) (io.ReadCloser, error) { return m.dev.DialPrivileged(ctx, port) }, true},
	} {
		c, err := tt.dial(t.Context(), portPeer)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		var own, cid, port uint32
		if _, err := fmt.Sscanf(string(got), "%d %d %d <nil>", &own, &cid, &port); err != nil || own != guestCID || cid != 2 || (port < 1024) != tt.low || !tt.low && port < 1<<30 {
			t.Errorf("%s: the guest says %q", name, got)
		}
	}
	_, err := m.dev.DialContext(t.Context(), 1999)
	if !errors.Is(err, vsockdev.ErrRefused) {
		t.Errorf("where nobody listens: %v, want %v", err, vsockdev.ErrRefused)
	}
}

// halfClose ends the directions one after the other, each side first, and both.
func halfClose(t *testing.T, m *machine) {
	m.helper(t)
	t.Run("HostFirst", func(t *testing.T) {
		c := m.dial(t, portEcho)
		io.WriteString(c, "question")
		c.CloseWrite()
		if got, err := io.ReadAll(c); err != nil || string(got) != "question" {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("GuestFirst", func(t *testing.T) {
		c := m.dial(t, portFirst)
		if got, err := io.ReadAll(c); err != nil || string(got) != "first" {
			t.Errorf("%q, %v", got, err)
		}
		if _, err := io.Copy(c, pattern(1<<20)); err != nil { // it still reads
			t.Error(err)
		}
	})
	t.Run("SinkSaysHowMuch", func(t *testing.T) {
		c := m.dial(t, portSink)
		const n = 3<<20 + 17
		if _, err := io.Copy(c, pattern(n)); err != nil {
			t.Fatal(err)
		}
		c.CloseWrite()
		var got int64
		if err := binary.Read(c, binary.BigEndian, &got); err != nil || got != n {
			t.Errorf("%d bytes came, %v, want %d", got, err, n)
		}
	})
	t.Run("GuestClosesBoth", func(t *testing.T) {
		c := m.dial(t, portSource)
		binary.Write(c, binary.BigEndian, uint64(2<<20))
		if got, err := io.ReadAll(c); err != nil || len(got) != 2<<20 {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
	t.Run("HostClosesBoth", func(t *testing.T) {
		// What was written before the close arrives: the relay brings it back.
		l, err := m.dev.Listen(portHost)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c := m.dial(t, portRelay)
		back, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer back.Close()
		done := make(chan error, 1)
		go func() {
			_, err := io.Copy(c, pattern(1<<20))
			c.Close()
			done <- err
		}()
		if got, err := io.ReadAll(back); err != nil || len(got) != 1<<20 {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// bulk measures bare connections, beside which the agent's are seen.
func bulk(t *testing.T, m *machine) {
	m.helper(t)
	n := int64(size(100<<20, 8<<20))
	c := m.dial(t, portSource)
	start := time.Now()
	binary.Write(c, binary.BigEndian, uint64(n))
	if got, err := io.Copy(io.Discard, c); err != nil || got != n {
		t.Errorf("%d bytes, %v", got, err)
	}
	t.Logf("guest to host: %.0f MB/s", float64(n)/1e6/time.Since(start).Seconds())
	c = m.dial(t, portSink)
	start = time.Now()
	if _, err := io.Copy(c, pattern(n)); err != nil {
		t.Error(err)
	}
	c.CloseWrite()
	var got int64
	if err := binary.Read(c, binary.BigEndian, &got); err != nil || got != n {
		t.Errorf("%d bytes came, %v", got, err)
	}
	t.Logf("host to guest: %.0f MB/s", float64(n)/1e6/time.Since(start).Seconds())
	c = m.dial(t, portEcho)
	rounds := size(2000, 200)
	b := make([]byte, 64)
	least := time.Hour
	start = time.Now()
	for range rounds {
		before := time.Now()
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal(err)
		}
		least = min(least, time.Since(before))
	}
	t.Logf("64-byte echo: %v on average, %v at least", (time.Since(start) / time.Duration(rounds)).Round(time.Microsecond), least.Round(time.Microsecond))
}

// fromGuest has the guest connect to the host's Unix socket of a port.
func fromGuest(t *testing.T, m *machine) {
	m.helper(t)
	c := m.dial(t, portRelay) // nobody listens on the host
	if got, err := io.ReadAll(c); len(got) > 0 {
		t.Errorf("%q, %v", got, err)
	}
	l, err := m.dev.Listen(portHost)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c = m.dial(t, portRelay)
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	go func() {
		_, _ = io.Copy(in, in)
		in.(*vsockdev.Conn).CloseWrite()
	}()
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(c, pattern(2<<20))
		c.CloseWrite()
		sent <- err
	}()
	got, err := io.ReadAll(c)
	want, _ := io.ReadAll(pattern(2 << 20))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes came back of %d, or others: %v", len(got), len(want), err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// secondAgent starts an agent at another port, ends it and starts it again.
func secondAgent(t *testing.T, m *machine) {
	const port = 1001
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), callLimit)
		defer cancel()
		agent := m.sdk.Command(ctx, "guest-agent", "--listen", fmt.Sprintf("vsock:any:%d", port))
		if err := agent.Start(); err != nil {
			t.Fatal(err)
		}
		for {
			c, err := m.dev.DialContext(ctx, port)
			if err == nil {
				c.Close()
				break
			}
			if !errors.Is(err, vsockdev.ErrRefused) {
				t.Fatal(err)
			}
		}
		if err := agent.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if err := agent.Wait(); err != nil {
			t.Errorf("the second agent ends with %v", err)
		}
		if _, err := m.dev.DialContext(ctx, port); !errors.Is(err, vsockdev.ErrRefused) {
			t.Errorf("dial an agent that has ended: %v", err)
		}
	}
}

// many opens many connections at once, and many one after the other.
func many(t *testing.T, m *machine) {
	m.helper(t)
	atOnce, inAll := size(1000, 200), size(10000, 500)
	var conns sync.Map
	var group errgroup.Group
	start := time.Now()
	for i := range atOnce {
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(t.Context(), callLimit)
			defer cancel()
			c, err := m.dev.DialContext(ctx, portEcho)
			if err != nil {
				return err
			}
			conns.Store(i, c)
			_, err = fmt.Fprintf(c, "%8d", i)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	conns.Range(func(i, c any) bool {
		b := make([]byte, 8)
		if _, err := io.ReadFull(c.(io.Reader), b); err != nil || string(b) != fmt.Sprintf("%8d", i) {
			t.Errorf("connection %d: %q, %v", i, b, err)
		}
		c.(io.Closer).Close()
		return true
	})
	t.Logf("%d at once: %v", atOnce, time.Since(start).Round(time.Millisecond))
	start = time.Now()
	group = errgroup.Group{}
	group.SetLimit(16)
	for range inAll {
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(t.Context(), callLimit)
			defer cancel()
			c, err := m.dev.DialContext(ctx, portEcho)
			if err != nil {
				return err
			}
			defer c.Close()
			if _, err := io.WriteString(c, "x"); err != nil {
				return err
			}
			_, err = io.ReadFull(c, make([]byte, 1))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	t.Logf("%d opened and closed: %v", inAll, time.Since(start).Round(time.Millisecond))
}
