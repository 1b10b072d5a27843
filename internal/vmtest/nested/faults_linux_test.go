package nested

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/vsockrpc/vsockrpc/transport"
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

// noise returns n bytes.
func noise(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// pausedCount stops the guest's time during a command that reads and writes.
func (s *scenario) pausedCount(t *testing.T) {
	c := s.startCounting(t)
	c.lines(t, 0, 20)
	s.guest.pause(t)
	// Longer than the agent waits for an owner that is gone.
	for range 3 {
		if got := dialKind(t, s.addr(agentPort), dialTry); got != transport.KindGuestBooting {
			t.Errorf("dial a paused guest: %v", got)
		}
	}
	s.guest.resume(t)
	c.rest(t, 20)
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
