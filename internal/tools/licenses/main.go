// Command licenses checks that every module which is linked into a program has a
// license that we may ship:
//
//	licenses [-C DIR] [-tags TAGS] PACKAGE...
//
// It prints a line for each module: its license, path and version. It fails if
// the license of one is not known, or not in the list of those allowed.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	dir := flag.String("C", ".", "look from `DIR`")
	tags := flag.String("tags", "", "build `TAGS`")
	flag.Parse()
	if err := run(*dir, *tags, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "licenses:", err)
		os.Exit(1)
	}
}

// systems are those that programs are built for.
var systems = []string{"linux", "darwin", "windows"}

// A module is what go list says about one.
type module struct {
	Path, Version, Dir string
	Main               bool
	Replace            *module
}

func run(dir, tags string, packages []string) error {
	modules := make(map[string]module)
	for _, system := range systems {
		if err := list(modules, dir, system, tags, packages); err != nil {
			return err
		}
	}
	goroot, err := command(dir, "", "env", "GOROOT")
	if err != nil {
		return err
	}
	modules["std"] = module{Path: "std", Dir: strings.TrimSpace(string(goroot))}
	var errs []error
	for _, path := range slices.Sorted(maps.Keys(modules)) {
		m := modules[path]
		id, err := licenseIn(m.Dir)
		if err == nil && !allowed[id] {
			err = fmt.Errorf("%s is not in the list of licenses allowed", id)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", m.Path, m.Version, err))
			continue
		}
		fmt.Printf("%-14s%s %s\n", id, m.Path, m.Version)
	}
	return errors.Join(errs...)
}

// list adds the modules that packages need on a system. A package that does not
// exist there needs none.
func list(modules map[string]module, dir, system, tags string, packages []string) error {
	args := append([]string{"list", "-e", "-deps", "-json=Module,Error,DepOnly", "-tags", tags, "--"}, packages...)
	out, err := command(dir, system, args...)
	if err != nil {
		return err
	}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			Module  *module
			DepOnly bool
			Error   *struct{ Err string }
		}
		switch err := dec.Decode(&p); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("go list: %w", err)
		case p.Error != nil && (p.DepOnly || system == "linux"):
			return fmt.Errorf("go list for %s: %s", system, p.Error.Err)
		case p.Module == nil:
			continue // the standard library
		}
		m := *p.Module
		if m.Replace != nil {
			m.Dir = m.Replace.Dir
		}
		modules[m.Path] = m
	}
}

func command(dir, system string, args ...string) ([]byte, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if system != "" {
		cmd.Env = append(cmd.Env, "GOOS="+system)
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w", args[0], err)
	}
	return out, nil
}

// licenseIn returns the license of the module in dir.
func licenseIn(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	var found []string
	for _, e := range entries {
		name := strings.ToUpper(e.Name())
		if e.IsDir() || !strings.HasPrefix(name, "LICENSE") && !strings.HasPrefix(name, "LICENCE") && !strings.HasPrefix(name, "COPYING") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return "", err
		}
		id, err := identify(string(text))
		if err != nil {
			return "", fmt.Errorf("%s: %w", e.Name(), err)
		}
		found = append(found, id)
	}
	slices.Sort(found)
	switch found = slices.Compact(found); len(found) {
	case 0:
		return "", errors.New("there is no license in it")
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("it has several licenses: %s", strings.Join(found, ", "))
}
