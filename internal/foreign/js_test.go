//go:build linux

package foreign

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestJavaScript runs js/client.js, with grpc-js from npm, against an agent.
func TestJavaScript(t *testing.T) {
	for _, name := range []string{"node", "npm"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("no %s here", name)
		}
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("js")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", "install", "--no-audit", "--no-fund", "--ignore-scripts")
	npm.Dir = dir
	if out, err := npm.CombinedOutput(); err != nil {
		t.Skipf("npm cannot install grpc-js here: %v\n%s", err, out)
	}

	addr := serve(t)
	proto, err := filepath.Abs("../../proto")
	if err != nil {
		t.Fatal(err)
	}
	node := exec.CommandContext(ctx, "node", "client.js", addr, proto)
	node.Dir = dir
	out, err := node.CombinedOutput()
	if err != nil {
		t.Fatalf("client.js: %v\n%s", err, out)
	}
	want := "info Linux\nexec 0 hello from JavaScript\nprocesses some\nerror NOT_FOUND\n"
	if got := string(out); got != want {
		t.Errorf("client.js printed\n%s\nwant\n%s", got, strings.TrimSpace(want))
	}
}
