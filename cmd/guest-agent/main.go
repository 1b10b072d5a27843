//go:build linux

package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/vsockrpc/vsockrpc/agent"
	"github.com/vsockrpc/vsockrpc/agent/process"
	"github.com/vsockrpc/vsockrpc/internal/pid1"
	"github.com/vsockrpc/vsockrpc/internal/system"
)

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

func main() {
	process.MaybeRunLauncher()
	os.Exit(run())
}

func run() int {
	args := os.Args[1:]
	owner := pid1.OwnsMachine()
	if owner {
		args = flagsOnly(args)
	}
	if !owner && len(args) > 0 && args[0] == "policy" {
		return runPolicy(args[1:], os.Stdout, os.Stderr)
	}
	s, err := parseSettings(args, os.Environ(), system.KernelArgs("/"), os.Stdout)
	switch {
	case owner:
		// Its end would be the kernel's, so the first process goes on with
		// what it understood.
		return runInit(s, err)
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintf(os.Stderr, "guest-agent: %s\nRun 'guest-agent -h' for the flags.\n", oneLine(err))
		return exitUsage
	case s.version:
		fmt.Printf("guest-agent %s (protocol %d, %s, %s/%s)\n", agent.BuildVersion(), agent.ProtocolVersion, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return exitOK
	}
	d := newDaemon(s)
	d.mustEnd()
	if _, err := d.run(); err != nil {
		d.log.Error("guest-agent ends", "err", err)
		return exitFailure
	}
	return exitOK
}

// flagsOnly returns the arguments that are flags. The kernel hands its first
// process every word of its command line that nobody knows.
func flagsOnly(args []string) []string {
	return slices.DeleteFunc(slices.Clone(args), func(a string) bool { return !strings.HasPrefix(a, "-") || a == "--" })
}
