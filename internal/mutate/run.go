package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// verdict says what became of a mutant.
type verdict string

const (
	noticed  verdict = "noticed"  // a test failed
	survived verdict = "SURVIVED" // none did
	invalid  verdict = "invalid"  // it does not compile
	same     verdict = "same"     // listed as changing nothing
)

// runner runs the tests.
type runner struct {
	root    string
	tests   []string
	match   string
	timeout time.Duration
}

// baseline runs the tests with no change.
func (r *runner) baseline(ctx context.Context) ([]byte, error) { return r.test(ctx, "") }

// run runs the tests with a mutant in the place of its file.
func (r *runner) run(ctx context.Context, m mutant) (verdict, error) {
	text, err := m.apply()
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	path, err := filepath.Abs(m.path)
	if err != nil {
		return "", err
	}
	changed, overlay := filepath.Join(dir, "mutant.go"), filepath.Join(dir, "overlay.json")
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{path: changed}})
	if err == nil {
		err = errors.Join(os.WriteFile(changed, text, 0o600), os.WriteFile(overlay, replace, 0o600))
	}
	if err != nil {
		return "", err
	}
	out, err := r.test(ctx, overlay)
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err == nil:
		return survived, nil
	case strings.Contains(string(out), "[build failed]"):
		return invalid, nil
	}
	return noticed, nil
}

// test runs go test, and ends it and all that it started when the time is up.
func (r *runner) test(ctx context.Context, overlay string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout+time.Minute)
	defer cancel()
	args := []string{"test", "-count=1", "-failfast", "-vet=off", "-timeout", r.timeout.String()}
	if r.match != "" {
		args = append(args, "-run", r.match)
	}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, r.tests...)...)
	cmd.Dir = r.root
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	return cmd.CombinedOutput()
}
