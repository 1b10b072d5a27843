//go:build linux

package foreign

import (
	"context"
	"os/exec"
	"testing"
	"time"
)

// TestPython runs python/client.py, on gRPC's C core, against an agent. make unit
// installs what it needs where it can.
func TestPython(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	python := ""
	for _, name := range []string{"python3", "/usr/bin/python3"} { // the latter has Debian's packages
		if exec.CommandContext(ctx, name, "-c", "import grpc, google.protobuf").Run() == nil {
			python = name
			break
		}
	}
	if python == "" {
		t.Skip("no python3 with grpc here")
	}
	out, err := exec.CommandContext(ctx, python, "python/client.py", serve(t)).CombinedOutput()
	if err != nil {
		t.Fatalf("client.py: %v\n%s", err, out)
	}
	want := "health SERVING\ninfo Linux\nexec 0 hello from Python\nbytes 0 True\nprocesses some\nerror NOT_FOUND\n"
	if got := string(out); got != want {
		t.Errorf("client.py printed\n%s\nwant\n%s", got, want)
	}
}
