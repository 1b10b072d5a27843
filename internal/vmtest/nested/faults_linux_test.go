package nested

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// countScript counts, then says what its stdin hashes to.
const (
	countLines  = 60
	countScript = `i=0; while [ $i -lt 60 ]; do echo "line $i"; i=$((i+1)); sleep 0.05; done; sha256sum; exit 9`
)

// counting is an exec of countScript.
type counting struct {
	*background
	sum [32]byte // of its stdin
}

func (s *scenario) startCounting(t *testing.T) *counting {
	t.Helper()
	stdin := noise(256 << 10)
	return &counting{
		background: s.host.startCall(t, call{
			args:  []string{"exec", "-i", s.host.guest, "--", "sh", "-c", countScript},
			stdin: bytes.NewReader(stdin),
		}),
		sum: sha256.Sum256(stdin),
	}
}

// lines checks that the next lines are those from from on, up to to.
func (c *counting) lines(t *testing.T, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if got, want := c.line(t), fmt.Sprintf("line %d", i); got != want {
			t.Fatalf("the command says %q, want %q", got, want)
		}
	}
}

// rest checks that the rest comes, each byte once, and the exit code.
func (c *counting) rest(t *testing.T, from int) {
	t.Helper()
	c.lines(t, from, countLines)
	if got, want := c.line(t), fmt.Sprintf("%x  -", c.sum); got != want {
		t.Errorf("stdin hashes to %q in the guest, want %q", got, want)
	}
	if code, stderr := c.wait(t, callLimit); code != 9 {
		t.Errorf("exit code %d, want 9: %s", code, stderr)
	}
}

// lost checks that host-ctl says that the command is lost.
func (c *counting) lost(t *testing.T) {
	t.Helper()
	code, stderr := c.wait(t, 2*callLimit)
	if code != 125 || !strings.Contains(stderr, "session lost") {
		t.Errorf("exit code %d, stderr %q; want 125, and that the session is lost", code, stderr)
	}
}

// noise returns n bytes.
func noise(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// snapshot saves the guest during a command, and restores it: all connections
// are reset, and the command goes on, with each byte once.
func (s *scenario) snapshot(t *testing.T) {
	c := s.startCounting(t)
	c.lines(t, 0, 20)
	s.guest.save(t)
	s.guest.restore(t)
	c.rest(t, 20)
}

// copies are two copies under way, one each way.
type copies struct {
	to, from  *background
	sum       [32]byte // of what is copied to the guest
	guestFile string
	local     string
	during    []byte // what the local destination has during the fault
}

const (
	copySize   = 2 << 20
	copiedFrom = "/bin/busybox" // is there again after a boot
)

// startCopies starts two copies, and returns when a part of the first is in the
// guest.
func (s *scenario) startCopies(t *testing.T, name string) *copies {
	t.Helper()
	dir := t.TempDir()
	source, data := filepath.Join(dir, "source"), noise(copySize)
	if err := os.WriteFile(source, data, 0o600); err != nil {
		t.Fatal(err)
	}
	c := &copies{sum: sha256.Sum256(data), guestFile: "/tmp/" + name, local: filepath.Join(dir, "local")}
	if err := os.WriteFile(c.local, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.to = s.host.start(t, "cp", "-q", source, s.host.guest+":"+c.guestFile)
	c.from = s.host.start(t, "cp", "-q", s.host.guest+":"+copiedFrom, c.local)
	for range 1000 {
		r := s.host.run(t, "exec", s.host.guest, "--", "sh", "-c", "echo /tmp/.vsockrpc-*.part "+c.guestFile+"*")
		if strings.Contains(r.stdout, c.guestFile+"\n") {
			t.Log("the copy was over before the fault")
			return c
		}
		if !strings.Contains(r.stdout, "*.part") {
			return c
		}
	}
	t.Fatal("the copy does not begin")
	return nil
}

// whole checks that both copies come to their ends, by themselves.
func (s *scenario) whole(t *testing.T, c *copies) {
	t.Helper()
	for name, b := range map[string]*background{"to": c.to, "from": c.from} {
		if code, stderr := b.wait(t, 3*callLimit); code != 0 {
			t.Errorf("copy %s: exit code %d: %s", name, code, stderr)
		}
	}
	r := s.host.run(t, "exec", s.host.guest, "--", "sha256sum", c.guestFile, copiedFrom)
	data, err := os.ReadFile(c.local)
	if err != nil {
		t.Fatal(err)
	}
	if string(c.during) != "old" && !bytes.Equal(c.during, data) {
		t.Errorf("the destination had %d bytes during the copy, neither the old nor the new file", len(c.during))
	}
	if want := fmt.Sprintf("%x  %s\n%x  %s\n", c.sum, c.guestFile, sha256.Sum256(data), copiedFrom); r.stdout != want {
		t.Errorf("hashes in the guest: %q, want %q", r.stdout, want)
	}
	if r := s.host.run(t, "exec", s.host.guest, "--", "sh", "-c", "echo /tmp/.vsockrpc-*"); r.stdout != "/tmp/.vsockrpc-*\n" {
		t.Errorf("parts of copies are left: %q", r.stdout)
	}
}

// look takes note of what the destination of the copy from the guest has now.
func (c *copies) look(t *testing.T) {
	t.Helper()
	var err error
	if c.during, err = os.ReadFile(c.local); err != nil {
		t.Error(err)
	}
}

// killed kills the guest during a command and copies. It comes back as it was
// when it was saved, and knows nothing of them: the command is lost, and the
// copies are made.
func (s *scenario) killed(t *testing.T) {
	if testing.Short() {
		t.Skip("copies take a minute or more of real time")
	}
	e := s.startCounting(t)
	e.lines(t, 0, 5)
	c := s.startCopies(t, "killed")
	s.guest.kill()
	c.look(t)
	s.guest.restore(t)
	e.lost(t)
	s.whole(t, c)
}
