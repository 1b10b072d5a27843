package vmtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const labinit = "github.com/vsockrpc/vsockrpc/internal/vmtest/labinit"

// buildTags are the tags of the programs that users get.
const buildTags = "grpcnotrace"

// goCommand returns a go command that builds static programs for the lab.
func goCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	return cmd
}

func output(cmd *exec.Cmd) ([]byte, error) {
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, exit.Stderr)
	}
	return out, err
}

// buildProgram builds the main package pkg into the file name.
func buildProgram(ctx context.Context, name, pkg string) error {
	_, err := output(goCommand(ctx, "build", "-trimpath", "-tags", buildTags, "-ldflags", "-s -w", "-o", name, pkg))
	return err
}

// A testPackage is what go list says about a package.
type testPackage struct {
	ImportPath   string
	Dir          string
	TestGoFiles  []string
	XTestGoFiles []string
}

// listTests returns the packages that patterns name and that have tests. A
// pattern that begins with a dot or a slash is looked for in the module of its
// directory.
func listTests(ctx context.Context, patterns []string) ([]testPackage, error) {
	var all []testPackage
	for _, pattern := range patterns {
		pkgs, err := listPattern(ctx, pattern)
		if err != nil {
			return nil, err
		}
		all = append(all, pkgs...)
	}
	return all, nil
}

func listPattern(ctx context.Context, pattern string) ([]testPackage, error) {
	dir := ""
	if strings.HasPrefix(pattern, ".") || strings.HasPrefix(pattern, "/") {
		var below bool
		if dir, below = strings.CutSuffix(pattern, "/..."); below {
			pattern = "./..."
		} else {
			pattern = "."
		}
	}
	list := goCommand(ctx, "list", "-json=ImportPath,Dir,TestGoFiles,XTestGoFiles", "-tags", buildTags, "--", pattern)
	list.Dir = dir
	out, err := output(list)
	if err != nil {
		return nil, err
	}
	var pkgs []testPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p testPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		if len(p.TestGoFiles)+len(p.XTestGoFiles) > 0 {
			pkgs = append(pkgs, p)
		}
	}
}

// FindPackages returns the directories of those of the packages named by
// patterns whose test files mention [EnvLab] by name: the ones that have
// something to do in the lab.
func FindPackages(ctx context.Context, patterns ...string) ([]string, error) {
	pkgs, err := listTests(ctx, patterns)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, p := range pkgs {
		for _, name := range append(p.TestGoFiles, p.XTestGoFiles...) {
			data, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				return nil, err
			}
			if strings.Contains(string(data), EnvLab) {
				found = append(found, p.Dir)
				break
			}
		}
	}
	return found, nil
}

// buildTests builds the tests of packages into dir. Each runs in the directory
// of its package, with a time limit at which it tells where it hangs, below the
// lab's own.
func buildTests(ctx context.Context, dir string, packages, args []string, limit time.Duration) ([]Run, error) {
	args = append([]string{"-test.timeout=" + (limit * 4 / 5).String()}, args...)
	pkgs, err := listTests(ctx, packages)
	if err != nil {
		return nil, err
	}
	if len(pkgs) == 0 {
		return nil, fmt.Errorf("no tests in %s", strings.Join(packages, " "))
	}
	var runs []Run
	for i, p := range pkgs {
		name := filepath.Join(dir, fmt.Sprintf("%d.test", i))
		build := goCommand(ctx, "test", "-c", "-ldflags", "-s -w", "-tags", buildTags, "-o", name, ".")
		build.Dir = p.Dir // which may be in another module
		if _, err := output(build); err != nil {
			return nil, err
		}
		runs = append(runs, Run{Name: p.ImportPath, Path: name, Args: args, Dir: p.Dir})
	}
	return runs, nil
}
