//go:build linux

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckProgram(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p")
	if err := os.WriteFile(path, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	root := os.Geteuid() == 0
	for _, tt := range []struct {
		name     string
		uid, gid int
		mode     os.FileMode
		ok       bool
		foreign  bool
	}{
		{"as it should be", 0, 0, 0o755, true, false},
		{"everybody may write it", 0, 0, 0o757, false, false},
		{"everybody may write it, who may not read it", 0, 0, 0o702, false, false},
		{"root's group may write it", 0, 0, 0o775, true, false},
		{"another group may write it", 0, 4, 0o775, false, false},
		{"another group may run it", 0, 4, 0o755, true, false},
		{"a user's, with a group of its own", 1234, 1234, 0o775, true, true},
		{"a user's", 1234, 0, 0o755, true, true},
	} {
		if tt.uid != 0 || tt.gid != 0 {
			if !root {
				continue // it takes root to give files away
			}
		}
		if root {
			if err := os.Chown(path, tt.uid, tt.gid); err != nil {
				t.Fatal(err)
			}
		} else if tt.mode&0o070 == 0o070 {
			continue
		}
		if err := os.Chmod(path, tt.mode); err != nil {
			t.Fatal(err)
		}
		foreign, err := checkProgram(path)
		if (err == nil) != tt.ok || (foreign != "") != tt.foreign {
			t.Errorf("%s: %q, %v", tt.name, foreign, err)
		}
	}
}

// TestWritableProgram: an agent whose file others may write does not start.
func TestWritableProgram(t *testing.T) {
	cmd := agentCommand(t, "--listen=unix:"+filepath.Join(t.TempDir(), "s"))
	program := filepath.Join(t.TempDir(), "guest-agent")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// By another process: a file that this one has written may still be open in a
	// child that was just forked, and cannot be executed then.
	if code, _, stderr := exitOf(t, exec.Command("cp", self, program)); code != 0 {
		t.Fatal(stderr)
	}
	if err := os.Chmod(program, 0o777); err != nil {
		t.Fatal(err)
	}
	cmd.Path = program
	code, _, stderr := exitOf(t, cmd)
	if code != exitFailure || !strings.Contains(stderr, "chmod go-w") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
}
