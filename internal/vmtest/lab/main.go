// Command lab runs tests in kernels of its own, in which native AF_VSOCK may be
// used; see docs/lab.md.
//
//	go run ./internal/vmtest/lab                  all that the lab has, as CI does
//	go run ./internal/vmtest/lab uml [PACKAGE]... [-- -test.v -test.run X]
//	go run ./internal/vmtest/lab nested [-- -test.run X]
//	go run ./internal/vmtest/lab device [-- -test.run X]
//
// A PACKAGE may be a directory of another module, such as ./internal/rpctest/interop.
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
	var o options
	flag.DurationVar(&o.timeout, "timeout", 0, "time limit of each lab (0: its own)")
	flag.BoolVar(&o.emulate, "emulate", false, "use the outer machine of the nested lab even where guests can run without it")
	flag.BoolVar(&o.require, "require", false, "fail instead of skipping a lab that this machine cannot have")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: lab [FLAG]... [uml [PACKAGE]... | nested | device] [-- TESTFLAG...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := o.run(ctx, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		stop()
		os.Exit(1)
	}
}

type options struct {
	timeout          time.Duration
	emulate, require bool
}

func (o *options) run(ctx context.Context, args []string) error {
	var testFlags []string
	if i := slices.Index(args, "--"); i >= 0 {
		args, testFlags = args[:i], args[i+1:]
	}
	if len(args) == 0 {
		return errors.Join(
			o.report("device", o.device(ctx, append([]string{"-test.short"}, testFlags...))),
			o.report("uml", o.uml(ctx, nil, testFlags)),
			o.report("nested", o.nested(ctx, append([]string{"-test.short"}, testFlags...))))
	}
	switch lab, packages := args[0], args[1:]; {
	case lab == "uml":
		return o.report(lab, o.uml(ctx, packages, testFlags))
	case lab == "nested" && len(packages) == 0:
		return o.report(lab, o.nested(ctx, testFlags))
	case lab == "device" && len(packages) == 0:
		return o.report(lab, o.device(ctx, testFlags))
	}
	flag.Usage()
	return fmt.Errorf("unexpected arguments %q", args)
}

// uml runs the tests of packages, or of all packages that have some for it.
func (o *options) uml(ctx context.Context, packages, testFlags []string) error {
	if len(packages) == 0 {
		var err error
		if packages, err = vmtest.FindPackages(ctx, "github.com/vsockrpc/vsockrpc/...", "./internal/rpctest/interop/..."); err != nil {
			return err
		}
	}
	// System calls are slow there, and loads are tested outside.
	testFlags = append([]string{"-test.short"}, testFlags...)
	lab := vmtest.UML{Packages: packages, Args: testFlags, Timeout: o.timeout, Output: os.Stdout}
	return lab.Run(ctx)
}

func (o *options) nested(ctx context.Context, testFlags []string) error {
	// A run of minutes shows how far it is.
	testFlags = append([]string{"-test.v"}, testFlags...)
	lab := vmtest.Nested{Args: testFlags, Timeout: o.timeout, Output: os.Stdout, Emulate: o.emulate}
	return lab.Run(ctx)
}

func (o *options) device(ctx context.Context, testFlags []string) error {
	testFlags = append([]string{"-test.v"}, testFlags...)
	lab := vmtest.Device{Args: testFlags, Timeout: o.timeout, Output: os.Stdout}
	return lab.Run(ctx)
}

// report prints how a lab ended. An unavailable one is no error unless it is
// required.
func (o *options) report(lab string, err error) error {
	switch {
	case err == nil:
		fmt.Printf("lab %s: passed\n", lab)
	case errors.Is(err, vmtest.ErrUnavailable) && !o.require:
		fmt.Printf("SKIP: lab %s: %v\n", lab, err)
	default:
		return fmt.Errorf("%s: %w", lab, err)
	}
	return nil
}
