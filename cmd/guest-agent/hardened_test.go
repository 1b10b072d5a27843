//go:build linux

package main

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

var boundingSet = regexp.MustCompile(`(?m)^CapabilityBoundingSet=(CAP_.*)$`)

// TestHardened runs the agent with no more capabilities than hardened.conf leaves
// it, and without new privileges: it still starts programs of root and of others,
// and ends them, and they gain nothing.
func TestHardened(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	conf, err := os.ReadFile("../../packaging/systemd/hardened.conf")
	if err != nil {
		t.Fatal(err)
	}
	m := boundingSet.FindSubmatch(conf)
	if m == nil || !bytes.Contains(conf, []byte("\nNoNewPrivileges=yes\n")) {
		t.Fatal("hardened.conf has no CapabilityBoundingSet or NoNewPrivileges")
	}
	bounds := "-all"
	for _, name := range strings.Fields(string(m[1])) {
		bounds += ",+" + strings.ToLower(strings.TrimPrefix(name, "CAP_"))
	}
	setpriv := []string{"setpriv", "--no-new-privs", "--bounding-set=" + bounds}
	if out, err := exec.CommandContext(t.Context(), setpriv[0], append(setpriv[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("setpriv: %v: %s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := agentCommand(t, "--listen=unix:%s")
	cmd.Args = append(append(setpriv, self), cmd.Args[1:]...)
	if cmd.Path, err = exec.LookPath(setpriv[0]); err != nil {
		t.Fatal(err)
	}
	p := start(t, cmd)
	sessions := guestv1.NewProcessServiceClient(dial(t, p.sock))
	dir := t.TempDir()
	for i, tt := range []struct{ user, script string }{
		{"", `[ "$(id -u)" = 0 ] && grep -q 'NoNewPrivs:.1' /proc/self/status`},
		{"", "touch " + dir + "/file && chown 1:1 " + dir + "/file && chmod 600 " + dir + "/file && cat " + dir + "/file"},
		{"nobody", `[ "$(id -un)" = nobody ] && ! touch ` + dir + "/other 2>/dev/null"},
		{"", "! mount -t tmpfs none " + dir + " 2>/dev/null && ! chroot / true 2>/dev/null"},
		{"", "kill -9 $$; false"},
	} {
		spec := &guestv1.SessionSpec{Args: [][]byte{[]byte("/bin/sh"), []byte("-c"), []byte(tt.script)}, User: []byte(tt.user)}
		id := bytes.Repeat([]byte{byte(i + 1)}, 16)
		if _, err := sessions.Start(t.Context(), &guestv1.StartRequest{SessionId: id, Spec: spec}); err != nil {
			t.Errorf("%s: %v", tt.script, err)
			continue
		}
		end, err := sessions.Wait(t.Context(), &guestv1.WaitRequest{SessionId: id})
		if err != nil {
			t.Fatal(err)
		}
		want := uint32(0)
		if strings.HasPrefix(tt.script, "kill") {
			want = 9
		}
		if exit := end.GetExit(); exit.GetCode() != 0 || exit.GetSignal() != want {
			t.Errorf("as %q, %s: %v", tt.user, tt.script, exit)
		}
	}
}
