//go:build linux

package process

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestTerminalsOfFailedStarts: a command that does not start, with a terminal and
// sizes for it on their way, leaves nothing that waits for more of them
// (CVE-2022-23471 of containerd).
func TestTerminalsOfFailedStarts(t *testing.T) {
	c := newCarrier(t, nil)
	c.leavesNothing(t, func() {
		for range stressed(100) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			s, err := c.client.Exec(ctx)
			if err != nil {
				t.Fatal(err)
			}
			open := &guestv1.Open{SessionId: newID(), Spec: terminal(&guestv1.SessionSpec{Args: args("/no/such/program")})}
			// Whichever the agent still takes: the call may be over before.
			_ = s.Send(&guestv1.ExecRequest{Message: &guestv1.ExecRequest_Open{Open: open}})
			for rows := range uint32(3) {
				_ = s.Send(&guestv1.ExecRequest{Message: &guestv1.ExecRequest_WindowSize{WindowSize: &guestv1.WindowSize{Rows: rows, Columns: 80}}})
			}
			if _, err := s.Recv(); status.Code(err) != codes.NotFound {
				t.Fatalf("exec of what is not there: %v", err)
			}
			cancel()
		}
	})
}

// TestListedProgramsAreNotRun: to list processes, of whatever name and in
// whatever directory, is to read about them: none is run to ask its version
// (CVE-2025-41244 of open-vm-tools).
func TestListedProgramsAreNotRun(t *testing.T) {
	c := newCarrier(t, nil)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	runs := filepath.Join(dir, "runs")
	httpd := filepath.Join(dir, "httpd")
	// One write of a line for each run; then it stays to be listed.
	script := "#!/bin/sh\necho run \"$@\" >> " + runs + "\necho up\nread line\n"
	if err := os.WriteFile(httpd, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	spec := &guestv1.SessionSpec{Args: args(httpd), Stdin: true}
	s, err := c.exec(testContext(t), &guestv1.Open{SessionId: newID(), Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	s.untilOutput(t, "up")
	listed := false
	for range 3 {
		list, err := c.client.ListProcesses(testContext(t), &guestv1.ListProcessesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for {
			resp, err := list.Recv()
			if isEnd(err) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range resp.Processes {
				listed = listed || p.Pid == s.opened.Session.Pid && strings.Contains(string(p.Args[len(p.Args)-1]), "httpd")
			}
		}
	}
	if !listed {
		t.Error("the process is not in the list")
	}
	if data, err := os.ReadFile(runs); err != nil || string(data) != "run\n" {
		t.Errorf("it ran as %q, %v; want once, by the session", data, err)
	}
}
