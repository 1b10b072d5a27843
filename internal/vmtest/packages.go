package vmtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ErrUnavailable is what an error is when this machine lacks what a lab needs
// and the lab could not fetch it. Its text says what is lacking.
var ErrUnavailable = errors.New("lab unavailable")

// cacheDir returns the directory for what the lab keeps between runs: .lab in
// the root of the module.
func cacheDir() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	mod := strings.TrimSpace(string(out))
	if filepath.Base(mod) != "go.mod" {
		return "", errors.New("not in the module's directory")
	}
	dir := filepath.Join(filepath.Dir(mod), ".lab")
	return dir, os.MkdirAll(dir, 0o755)
}

// workDir makes a directory for one run, which the caller removes.
func workDir(lab string) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	return os.MkdirTemp(cache, lab+"-")
}

// findUML returns the User-mode Linux kernel and its vsock modules.
func findUML(ctx context.Context) (kernel string, modules []string, err error) {
	if err := need(ctx, "linux.uml", "user-mode-linux"); err != nil {
		return "", nil, err
	}
	kernel, err = exec.LookPath("linux.uml")
	if err != nil {
		return "", nil, err
	}
	modules, err = findModules("/usr/lib/uml/modules", umlModules)
	return kernel, modules, err
}

// need makes sure that the program is in PATH: where it is not it installs the
// Debian packages, as far as it may.
func need(ctx context.Context, program string, packages ...string) error {
	if _, err := exec.LookPath(program); err == nil {
		return nil
	}
	install := "apt-get install " + strings.Join(packages, " ")
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("%w: no %s, and this is no Debian to fetch it from", ErrUnavailable, program)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: no %s; as root: %s", ErrUnavailable, program, install)
	}
	if err := aptInstall(ctx, packages); err != nil {
		return fmt.Errorf("%w: no %s, and it cannot be installed: %w", ErrUnavailable, program, err)
	}
	if _, err := exec.LookPath(program); err != nil {
		return fmt.Errorf("%w: %s brought no %s", ErrUnavailable, install, program)
	}
	return nil
}

// aptInstall installs packages, with fresh package lists if the ones at hand do
// not do.
func aptInstall(ctx context.Context, packages []string) error {
	install := append([]string{"install", "-y", "-q", "--no-install-recommends"}, packages...)
	if err := apt(ctx, "", install...); err == nil {
		return nil
	}
	if err := apt(ctx, "", "update", "-q"); err != nil {
		return err
	}
	return apt(ctx, "", install...)
}

// apt runs apt-get in dir.
func apt(ctx context.Context, dir string, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w\n%s", args[0], err, out)
	}
	return nil
}
