//go:build linux

package process

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/agent/internal/account"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestBadNames: a session's name is not taken for a pid or an id, nor spoils a list.
func TestBadNames(t *testing.T) {
	c := newCarrier(t, nil)
	for name, ok := range map[string]bool{
		"build": true, "a b": true, "8080-web": true, "wörk": true, "s12": true,
		"19311": false, "19311@5": false, "@": false, " ": false, " build": false, "build\t": false, "a\nb": false, "a\x1b[2J": false,
		"\u0085": false, sessionID(newID()).String(): false, strings.Repeat("x", maxSessionName+1): false,
	} {
		spec := shell("exit 0")
		spec.Name = name
		_, err := c.client.Start(testContext(t), &guestv1.StartRequest{SessionId: newID(), Spec: spec})
		if ok != (err == nil) || !ok && reasonOf(err) != reasonBadSpec {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestHome: a home that is missing, or that the user may not enter, gives / and a
// warning, whether the program has a launcher or not.
func TestHome(t *testing.T) {
	needsRoot(t)
	c := newCarrier(t, nil)
	closed := t.TempDir()
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	c.srv.accounts = account.Files{
		Passwd: write(t, "passwd", "root:x:0:0::/no/such/home:/bin/sh\nalice:x:54321:54322:A:/no/such/home:/bin/sh\nbob:x:54325:54326::/:/bin/sh\neve:x:54327:54326::"+closed+":/bin/sh\n", 0o644),
		Group:  write(t, "group", "staff:x:54400:\n", 0o644),
	}
	for user, warning := range map[string]string{"": "no such file", "alice": "no such file", "bob": "", "eve": "permission denied"} {
		spec := shell("pwd")
		spec.User = []byte(user)
		s, err := c.run(testContext(t), spec, "")
		if err != nil {
			t.Errorf("%s: %v", user, err)
			continue
		}
		got := s.opened.Session.Warning
		if string(s.out[stdout]) != "/\n" || (got == "") != (warning == "") || !strings.Contains(got, warning) {
			t.Errorf("%q works in %q, warning %q; want / and %q", user, s.out[stdout], got, warning)
		}
	}
	// One that was asked for is no home.
	spec := shell("pwd")
	spec.User, spec.Dir = []byte("eve"), []byte(closed)
	if _, err := c.run(testContext(t), spec, ""); reasonOf(err) != reasonBadDir {
		t.Errorf("a directory that cannot be entered: %v", err)
	}
}

// TestMaxResident: the agent's memory is not the program's.
func TestMaxResident(t *testing.T) {
	c := newCarrier(t, nil)
	var own unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &own); err != nil {
		t.Fatal(err)
	}
	s, err := c.run(testContext(t), shell("exit 0"), "")
	if err != nil || s.exit.Usage.MaxResidentBytes >= uint64(own.Maxrss)<<10 {
		t.Errorf("a small program has used %d bytes, the agent %d: %v", s.exit.GetUsage().GetMaxResidentBytes(), own.Maxrss<<10, err)
	}
	const size = 512 << 20
	s, err = c.run(testContext(t), helper(t, "hog", strconv.Itoa(size)), "")
	if err != nil || s.exit.Usage.MaxResidentBytes < size {
		t.Errorf("a program of %d bytes has used %d: %v", size, s.exit.GetUsage().GetMaxResidentBytes(), err)
	}
}
