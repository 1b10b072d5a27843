// Command lab runs tests in kernels of its own, in which native AF_VSOCK may be
// used; see docs/lab.md.
//
//	go run ./internal/vmtest/lab                  all that the lab has, as CI does
//	go run ./internal/vmtest/lab uml [PACKAGE]... [-- -test.v -test.run X]
//
// A lab that this machine cannot have is skipped, with a line that says why.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/vsockrpc/vsockrpc/internal/vmtest"
)

func main() {
	timeout := flag.Duration("timeout", 0, "time limit of each lab (0: its own)")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: lab [-timeout D] [uml [PACKAGE]... [-- TESTFLAG...]]")
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, flag.Args(), *timeout); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, timeout time.Duration) error {
	var testFlags []string
	if i := slices.Index(args, "--"); i >= 0 {
		args, testFlags = args[:i], args[i+1:]
	}
	which := "all"
	if len(args) > 0 {
		which, args = args[0], args[1:]
	}
	switch which {
	case "all", "uml":
		return report("uml", runUML(ctx, args, testFlags, timeout))
	}
	flag.Usage()
	return fmt.Errorf("no lab %q", which)
}

func runUML(ctx context.Context, packages, testFlags []string, timeout time.Duration) error {
	if len(packages) == 0 {
		var err error
		if packages, err = vmtest.FindPackages(ctx, "./..."); err != nil {
			return err
		}
	}
	uml := vmtest.UML{Packages: packages, Args: testFlags, Timeout: timeout, Output: os.Stdout}
	return uml.Run(ctx)
}

// report turns an unavailable lab into a message.
func report(lab string, err error) error {
	switch {
	case err == nil:
		fmt.Printf("lab %s: passed\n", lab)
	case errors.Is(err, vmtest.ErrUnavailable):
		fmt.Printf("SKIP: lab %s: %v\n", lab, err)
	default:
		return fmt.Errorf("%s: %w", lab, err)
	}
	return nil
}
