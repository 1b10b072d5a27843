//go:build linux

package process

import (
	"testing"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

func TestExec(t *testing.T) {
	c := newCarrier(t, nil)
	s, err := c.run(testContext(t), shell("echo out; echo err >&2; cat; exit 7"), "some input")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(s.out[stdout]), "out\nsome input"; got != want {
		t.Errorf("stdout %q, want %q", got, want)
	}
	if got, want := string(s.out[stderr]), "err\n"; got != want {
		t.Errorf("stderr %q, want %q", got, want)
	}
	if s.exit.GetCode() != 7 || s.exit.Code == nil {
		t.Errorf("exit %v, want code 7", s.exit)
	}
	_ = guestv1.Role_ROLE_OWNER
}
